"""Questions asked of a model, one file each."""
