"""Shared by the tests of the walk."""

import pytest

pytest.register_assert_rewrite("tests.loaders.torch.oracle")
