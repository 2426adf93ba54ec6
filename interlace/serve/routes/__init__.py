"""The endpoints, one file each. No route imports another."""
