"""Figures of soft entropy and mutual information."""
