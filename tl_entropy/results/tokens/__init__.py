"""A text token by token: surprisal, reliance, values across tokenizers, conditional entropy."""
