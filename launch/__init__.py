"""The command line, cluster jobs and run folders. Imports no torch."""
