"""Every flag, as a field of a dataclass with its help text; no flag twice. Knows nothing of what the values do."""
