"""Learning experiments on the synthetic data set, with their controls."""
