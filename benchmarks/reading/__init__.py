"""Reading and decoding beside the tools that people use: same clips, same answers, CPU seconds, in one run."""
