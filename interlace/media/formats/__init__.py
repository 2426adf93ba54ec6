"""Formats that films and sound are written in: one file for what writes, one line in `table` for each format."""
