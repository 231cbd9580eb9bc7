"""Entropy profiles as tensors: distances between them, what chance would show, and all pairs at once."""
