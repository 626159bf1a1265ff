"""Video encoders, one family a file."""
