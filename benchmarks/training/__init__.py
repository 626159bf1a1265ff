"""Training steps, networks, losses and clustering beside other implementations, in turns within one run."""
