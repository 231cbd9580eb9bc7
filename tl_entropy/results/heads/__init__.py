"""Entropies of single attention heads."""
