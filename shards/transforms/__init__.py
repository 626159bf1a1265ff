"""From frames to views: which frames a clip takes, crops, flips, colours, and mixing in batches."""
