from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.keys import expand
from ckptdiff.render import key_tree as tree
from ckptdiff.tensors import TensorInfo
from tests.reports import tensor

NAMES = st.sampled_from(["0", "1", "2", "10", "a", "b1", "b2", "{x}", ""])
KEYS = st.lists(NAMES, min_size=1, max_size=4).map(".".join)
TENSORS = st.sampled_from([tensor(2), tensor(3), tensor(2, dtype="int64")])


def leaves(nodes: list[tree.Node]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for node in nodes:
        below = {"": node.tensor} if node.tensor else leaves(node.children)
        for name in expand(node.name):
            found.update({name + rest: info for rest, info in below.items()})
    return found


@given(st.dictionaries(KEYS, TENSORS, max_size=40))
def test_the_tree_holds_exactly_the_tensors_of_the_file(entries: dict[str, TensorInfo]) -> None:
    nodes = tree.tree(entries)
    assert leaves(nodes) == entries
    assert sum(node.tensors for node in nodes) == len(entries)
    assert sum(node.nbytes for node in nodes) == sum(info.nbytes for info in entries.values())


def test_equal_layers_are_one_line_and_different_ones_are_not() -> None:
    entries = {f"layers.{i}.{leaf}": tensor(4) for i in range(12) for leaf in ("weight", "bias")}
    entries["layers.5.bias"] = tensor(5)
    (layers,) = tree.tree(entries)
    assert layers.name == "layers."
    assert [(node.name, node.count, node.tensors) for node in layers.children] == [
        ("{0..4,6..11}.", 11, 22),
        ("5.", 1, 2),
    ]


def test_whole_levels_are_shown_as_far_as_they_fit() -> None:
    entries = {f"part{c}.layer{i}.w{'x' * j}": tensor(i + 1) for c in "abc" for i in range(4) for j in range(4)}
    nodes = tree.tree(entries)
    assert len(tree.lines(nodes, 5)) == 3
    assert all(line.cut for line in tree.lines(nodes, 5))
    assert len(tree.lines(nodes, 15)) == 15
    assert not any(line.cut for line in tree.lines(nodes, None))


def test_a_key_of_a_thousand_components_is_no_thousand_levels() -> None:
    key = ".".join("abcdefghij" * 100)
    assert leaves(tree.tree({key: tensor(1), key + ".z": tensor(2)})) == {key: tensor(1), key + ".z": tensor(2)}
