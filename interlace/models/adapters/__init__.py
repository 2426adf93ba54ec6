"""Files of adapters (LoRA) as adapters of a pipeline. Knows nothing of requests."""
