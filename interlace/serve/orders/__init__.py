"""What requests ask for, checked: fields, sizes, edits and conversations become orders. Knows nothing of the queue."""
