"""Pretraining objectives, one per module or package."""
