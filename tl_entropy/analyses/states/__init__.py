"""States of the layers: similarity, shared information, geometry."""
