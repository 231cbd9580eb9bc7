"""A text token by token: what it costs, what it relies on, how it compares across tokenizers."""
