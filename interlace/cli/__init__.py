"""The command line: one file a command, thin calls, exit statuses. What is heavy is imported inside them."""
