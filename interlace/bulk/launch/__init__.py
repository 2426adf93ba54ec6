"""Nodes and worker processes: which rows are whose, started, watched, started again."""
