"""Data handling, from video files to batches. The lowest package: it imports nothing of the others except core."""
