"""Classification of videos: one or several classes per clip, from video, audio or both."""
