"""Comparisons with other tools, and learning experiments: `python -m benchmarks` in a clone. Not installed."""
