"""Captions: a language model that looks at any backbone's tokens, its training, its tests."""
