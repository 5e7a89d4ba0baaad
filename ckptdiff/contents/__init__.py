"""A checkpoint's contents: where the bytes of its tensors lie, and the bytes, tensors and numbers that they are."""
