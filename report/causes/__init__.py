"""Which step (ladder) and which layers spend the drift."""
