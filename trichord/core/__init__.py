"""What every part of trichord stands on: errors, files, seeds, processes, the console and the command line."""
