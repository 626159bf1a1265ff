"""From samples of sound to log-mel pictures, in the conventions that weights were trained with."""
