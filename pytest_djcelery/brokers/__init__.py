"""Brokers other than the one in memory: what a run makes there is its own, and removed."""
