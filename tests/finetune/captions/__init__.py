"""Specifications of captions."""
