"""Building shards from video files: planning, re-encoding and atomic writing."""
