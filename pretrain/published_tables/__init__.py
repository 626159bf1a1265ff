"""What the tensors of released checkpoints are called there and here: one module for each family of files.

Here a network has a `backbone` and a `head`; `classifier` is what a released model learnt with labels.
"""
