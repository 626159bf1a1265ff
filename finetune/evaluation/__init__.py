"""Evaluation on shards: every clip once, bootstrap intervals, and reports in a run's folder."""
