"""Values of single tokens as tensors: losses, codes, shares of characters, changes of logits."""
