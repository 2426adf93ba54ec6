"""What ControlNets add to a denoiser's calls: calls with and without it in one forward. Knows calls, not pipelines."""
