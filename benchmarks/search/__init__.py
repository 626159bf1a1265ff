"""Search indexes beside FAISS's own."""
