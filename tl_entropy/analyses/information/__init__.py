"""How much states say of labels."""
