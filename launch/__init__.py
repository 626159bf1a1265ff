"""The command line, cluster jobs and run folders; imports no torch."""
