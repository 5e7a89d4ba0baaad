"""The fuzzer: damaged files of every format, and what must not happen."""
