"""Clustering of embeddings distributed over ranks, the source of prototypes and pseudo-labels."""
