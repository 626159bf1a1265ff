"""Search: what videos, texts and sounds are as vectors, and which of millions are nearest to a question."""
