"""The layouts people's videos come in, one file each."""
