"""Layouts that write the synthetic data set in the formats of public datasets, as input for tests of each converter."""
