"""References to modules to ModuleTrees, and snapshots of them."""
