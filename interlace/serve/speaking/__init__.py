"""A server over an omni-modal model or a language model alone: chats with text, pictures, sound and films in, text and
speech out. Knows nothing of models that draw."""
