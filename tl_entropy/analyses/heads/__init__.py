"""Questions to single attention heads."""
