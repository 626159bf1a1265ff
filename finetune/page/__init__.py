"""Web page and JSON API that show the output of runs for an uploaded video."""
