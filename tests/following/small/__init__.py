"""Small loaders as people write them, by what they do: `load(model, path)` each, a dictionary of them a module."""
