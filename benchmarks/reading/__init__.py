"""Reading and decoding beside other tools: the same clips, the same results, CPU time."""
