"""What the command line says of itself: help pages, the reference, completion, suggestions. Runs nothing."""
