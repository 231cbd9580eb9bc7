"""States of layers as tensors: how alike they are, what they share, and how they fill their space."""
