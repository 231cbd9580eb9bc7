"""Distributions over the vocabulary as tensors: their entropies, their divergences, and both read off states in tiles."""
