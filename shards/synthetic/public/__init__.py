"""The world dressed as public datasets, one file each, so that every converter has an honest input."""
