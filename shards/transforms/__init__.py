"""Transforms from frames to views: choice of frames, crops, flips, colours, and mixing in batches."""
