"""Figures of single attention heads."""
