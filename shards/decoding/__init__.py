"""From bytes to frames and samples of sound: indexes of containers, planned decoding, limits."""
