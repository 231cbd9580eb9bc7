"""What lenses read: entropies and divergences of the distribution over the vocabulary, site by site."""
