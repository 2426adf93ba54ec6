"""Which fields of request bodies are accepted: strict about what changes a picture, lenient about what doesn't.

Owns the one table of fields that other software sends (`table`), what is done with them (`sift`), the nearest known
name of an unknown one (`names`) and their documentation (`doc`). Knows nothing of models, orders or HTTP.
"""
