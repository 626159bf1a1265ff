"""Classes of videos: one a clip or several, from picture, sound or both."""
