"""Interlace under Ray Serve: one ingress with today's server, and replicas of engines that Serve adds and removes."""
