"""Pretrains video transformers together with sound and text, and puts what they learn to work."""

__version__ = "0.1.0"
