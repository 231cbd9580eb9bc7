"""Models that are trained to estimate entropies, as TransformerLens models: mixers, autoencoders, decoders with a memory."""
