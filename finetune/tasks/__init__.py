"""Tasks on top of pretrained backbones, one package each."""
