"""The commands: flags in, one thin call each, exit status out. What is heavy is imported inside them."""
