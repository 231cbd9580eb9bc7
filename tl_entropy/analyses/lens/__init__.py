"""Questions to a lens: what would the model say here, and how far is it from what it says in the end."""
