"""Conversion of audio samples to log-mel spectrograms, in the conventions of published weights."""
