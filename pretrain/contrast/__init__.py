"""Losses that compare every row of a global batch with every other, without storing all products at once."""
