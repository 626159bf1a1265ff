"""A page, and an interface for programs, where a video is dropped and what runs make of it is seen."""
