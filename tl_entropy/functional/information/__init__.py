"""Soft assignments of states to bins as tensors: entropy, mutual information, their chance levels."""
