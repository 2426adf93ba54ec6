"""The HTTP server: OpenAI's Images API, requests as things, a page, metrics. Knows `AsyncOmni`, nothing of tensors."""
