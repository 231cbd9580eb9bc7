"""Figures of several models or passes."""
