"""What is learnt on top of pretrained backbones: one folder a task."""
