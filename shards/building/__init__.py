"""From video files to shards: plans, re-encoding, files that are whole or absent."""
