"""Top floor: the command line, cluster jobs and run folders. Imports no torch."""

__version__ = "0.1.0"
