"""Profiles over depth: distances between them, and what each layer adds."""
