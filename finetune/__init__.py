"""Fine-tuning and evaluation: heads, captions, zero-shot recognition and retrieval."""
