"""Where in its frames a backbone looks, and what its tokens hold, as pictures."""
