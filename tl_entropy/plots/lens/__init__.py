"""Figures of lens entropies and divergences."""
