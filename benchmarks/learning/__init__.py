"""What is learnt on the synthetic data set, and beside which controls."""
