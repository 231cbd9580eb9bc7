"""Several models, or one model while it is trained."""
