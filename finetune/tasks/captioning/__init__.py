"""Captioning: a language model that attends to any backbone's tokens, its training and its evaluation."""
