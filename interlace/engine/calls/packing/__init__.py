"""Calls for pictures of several sizes in one forward: where their positions come from, attention by the row."""
