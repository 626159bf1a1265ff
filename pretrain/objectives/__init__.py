"""What is minimised, one objective a file."""
