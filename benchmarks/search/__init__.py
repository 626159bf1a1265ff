"""Search indexes beside those of FAISS."""
