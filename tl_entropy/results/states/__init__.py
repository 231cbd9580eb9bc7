"""How alike the layers' states are, and how they fill their space."""
