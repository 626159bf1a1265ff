"""Encoders of video, audio and text, one package for each family."""
