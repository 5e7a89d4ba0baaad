"""Following code: a loader is run as it stands, on tensors whose values nobody reads or writes before somebody looks.

Every tensor is a real one. What a file gives is mapped from it, so that its values are there for whoever asks; what an
operation would write is noted in the log of the storage it would be written to, and carried out when it is looked at.
So nothing is read that nobody needs, and of every byte of a model it is known where it comes from.
"""
