"""numpy's arrays that remember where their values come from."""
