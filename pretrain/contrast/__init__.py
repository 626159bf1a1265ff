"""Losses that hold every row of a global batch against every other, without ever holding all products at once."""
