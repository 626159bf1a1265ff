"""The base package of trichord: errors, files, seeds, processes, the console and the command line."""
