"""From shards to batches: archives, the order of samples, the stream and its evaluation twin."""
