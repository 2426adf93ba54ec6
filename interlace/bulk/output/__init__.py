"""A run's folder: images, manifest, failures, locks. Survives a kill at any moment. Knows no models."""
