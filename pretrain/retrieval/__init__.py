"""Which rows belong together: ranks of each query's own targets, exact and in chunks, and the figures made of them."""
