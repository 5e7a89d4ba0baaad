"""`nn.Module.load_state_dict`: the walk, and the code of custom modules."""
