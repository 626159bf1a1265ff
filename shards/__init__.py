"""Ground floor: from video files to batches. Knows no model and imports nothing of the floors above."""
