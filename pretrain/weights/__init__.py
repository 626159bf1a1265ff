"""Import of released weights, strictly and by name, and export of a run's weights."""
