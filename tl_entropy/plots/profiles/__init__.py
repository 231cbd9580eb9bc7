"""Figures of profiles: what layers do, and distances."""
