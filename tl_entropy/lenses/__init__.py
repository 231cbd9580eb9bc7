"""Lenses: what the last residual stream would be, had the model only got as far as a site. See ``protocol`` for what one is."""
