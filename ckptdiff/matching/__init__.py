"""ModuleTree and Checkpoint to Comparison: the walk, and the code of custom modules."""
