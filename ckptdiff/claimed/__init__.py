"""A machine that is not this one: tensors that lie on the CPU, or nowhere, and say that they are on a GPU.

`claimed(kind)` is such a machine for a while (`host.py`). The claim lives in Python (`claiming.py`): a tensor that is
really labelled cuda fails, or aborts the process, in a torch without CUDA. It is kept by storage (`claims.py`), so that
views, `.data` and parameters have it too. Nothing is allocated on a GPU, and CUDA is not started, whether there is one
or not.
"""
