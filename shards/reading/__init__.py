"""Reading of shards as batches: archives, sample order, the training stream and the evaluation stream."""
