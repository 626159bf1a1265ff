"""Decoding bytes to frames and audio samples: container indexes, planned decoding and limits."""
