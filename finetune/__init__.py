"""Floor 2: heads, evaluation, captions and retrieval."""
