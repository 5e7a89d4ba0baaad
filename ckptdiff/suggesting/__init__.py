"""From two state dicts to the rules that would make one load: the finder. Torch-free."""
