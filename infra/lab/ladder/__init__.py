"""Adaptive video for the resolution task: players that choose rungs of a ladder, and what they showed when."""
