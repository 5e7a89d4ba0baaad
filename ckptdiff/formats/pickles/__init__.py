"""The symbolic unpickler: a pickle's whole content as inert values."""
