"""JSON put together by ckptdiff is what `json.dumps` makes of it."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.printable import json_text

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text('aé\u202e\n"\\\ud800', max_size=3)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(_SCALARS, inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


class Kind(str, enum.Enum):
    ONE = "one"


@given(_VALUES, st.integers(0, 3))
def test_indented_json_is_that_of_the_standard_library(value: object, indent: int) -> None:
    assert json_text(value, indent=indent) == json.dumps(value, indent=indent)


def test_what_is_no_plain_value_is_left_to_the_standard_library() -> None:
    value = {
        "a": [
            Kind.ONE,
            {
                1,
            },
        ],
        "b": {True: (), 2: {}, None: []},
    }
    assert json_text(value, indent=2, default=str) == json.dumps(value, indent=2, default=str)
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        json_text(value, indent=2)
    with pytest.raises(ValueError, match="Out of range float"):
        json_text([float("nan")], indent=2, allow_nan=False)
