"""The engines that run an omni-modal model's parts, and who may be in them. Knows nothing of what the parts do."""
