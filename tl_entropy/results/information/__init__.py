"""Soft entropy and mutual information of states."""
