"""What of shared modules is whose: the owner's state, and what one request differs in. Knows nothing of scheduling."""
