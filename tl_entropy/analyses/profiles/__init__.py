"""Profiles of the lens entropy against each other: distances, and their map."""
