"""Zero-shot recognition: classification of videos with texts only."""
