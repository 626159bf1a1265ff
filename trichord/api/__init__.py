"""The functions and classes that `import trichord` offers, each imported on first use."""
