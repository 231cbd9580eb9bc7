"""What is proved of a model on a short pass before a number of it is believed, one file a claim."""
