"""Retrieval: vectors of videos, texts and sounds, and nearest-neighbour search among millions of them."""
