"""Inspection of shard sets: verification of every clip, contact sheets, and timed reading."""
