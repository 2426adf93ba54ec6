"""Films and sound of models: how long they are, and how fast they play."""
