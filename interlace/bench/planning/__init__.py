"""Benches to plan with: what forwards cost, and what that means for a load."""
