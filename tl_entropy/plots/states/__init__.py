"""Figures of layers' similarity and geometry."""
