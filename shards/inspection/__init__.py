"""Looking at shard sets: verification of every clip, and contact sheets for eyes."""
