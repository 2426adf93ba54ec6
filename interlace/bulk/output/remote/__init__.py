"""Output folders in object stores: a run works in a local folder, and what it stored is copied as it comes."""
