"""Language models as stages: in this process or on a server. Knows nothing of diffusion."""
