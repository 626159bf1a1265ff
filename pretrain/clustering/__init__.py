"""Clustering of embeddings that many ranks hold: what prototypes and pseudo-labels are made of."""
