"""From whatever users hand in to activations: inputs, corpus, batches, the model's adapter, and the one pass over it."""
