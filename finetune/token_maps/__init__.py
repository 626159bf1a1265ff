"""Pictures of a backbone's attention over frames and of its tokens."""
