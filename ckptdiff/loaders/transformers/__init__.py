"""transformers: what `from_pretrained` would leave in a model, by running it."""
