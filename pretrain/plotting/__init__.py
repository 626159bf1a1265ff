"""Curves of runs, as an HTML page or an image."""
