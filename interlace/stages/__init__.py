"""Several models in a row, each batching on its own: a language model that writes prompts, then one that draws."""
