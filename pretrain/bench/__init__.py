"""Measurements of training beside other code, and of what is learned."""
