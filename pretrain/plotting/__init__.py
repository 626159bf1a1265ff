"""Curves of runs, as a page or a picture."""
