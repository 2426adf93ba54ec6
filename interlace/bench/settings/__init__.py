"""Benches that set a model beside itself under other settings."""
