"""Retrieval evaluation: exact ranks of each query's own targets, computed in chunks, and the metrics of these ranks."""
