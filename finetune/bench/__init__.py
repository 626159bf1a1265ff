"""Does what was pretrained help? Heads and captions on the generated world, beside the same on untrained backbones."""
