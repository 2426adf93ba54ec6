"""Rows from files: formats, columns, selection, the pictures that rows name. Knows no models and no output."""
