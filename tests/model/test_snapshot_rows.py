"""A snapshot as input: one that no model can have given is refused in one sentence, and nothing loops."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ckptdiff.errors import CkptdiffError, ModelError
from ckptdiff.gate.baseline import loads as baseline_of
from ckptdiff.model.extract import extract
from ckptdiff.model.snapshot import dumps, loads
from tests.model.test_snapshot import Everything

BASE: dict[str, Any] = json.loads(dumps(extract(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))))
VALID = dumps(extract(Everything()))


def changed(place: str, position: int, **fields: Any) -> str:
    content = json.loads(json.dumps(BASE))
    content[place][position] |= fields
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *[
            (changed("tensors", 0, shape=[value, 2]), "'shape' of tensor 1 cannot be")
            for value in (5.9, -1, "54", True, None, 2**63, [1], 1e3)
        ],
        (changed("tensors", 0, shape=[2**40, 2**40]), "'shape' of the tensor '0.weight' cannot be"),
        (changed("tensors", 0, shape="ab"), "'shape' of tensor 1 cannot be 'ab'"),
        (changed("tensors", 0, stride=[1]), "'stride' of the tensor '0.weight' is not one step for each size"),
        (changed("tensors", 0, kind="weight"), "'kind' of tensor 1 cannot be 'weight'"),
        (changed("tensors", 0, dtype=["float32"]), "'dtype' of tensor 1 cannot be ['float32']"),
        (changed("tensors", 0, dtype="float31"), "'dtype' of tensor 1 cannot be 'float31'"),
        (changed("tensors", 0, lazy="no"), "'lazy' of tensor 1 cannot be 'no'"),
        (changed("tensors", 0, persistant=False), "tensor 1 has an entry 'persistant', which there is not"),
        (changed("tensors", 0, persistent=False), "only a buffer can be"),
        (changed("tensors", 1, key="0.weight"), "the tensor '0.weight' is there twice"),
        (changed("tensors", 1, tied_with="0.wight"), "tied with '0.wight', which is no tensor before it"),
        (changed("tensors", 1, tied_with="0.weight"), "cannot be tied, being of two shapes or dtypes"),
        (changed("tensors", 0, tied_with="0.weight"), "which is no tensor before it"),
        (changed("tensors", 0, parent="1", name="weight"), "is not called what its 'parent' and 'name' say"),
        (changed("tensors", 0, name="weight"), "has one of 'parent' and 'name'"),
        (changed("tensors", 0, key="2.weight"), "comes before the module it is in"),
        *[(changed("modules", 2, version=value), "'version' of module 3 cannot be") for value in (5.9, -1, "2", True)],
        (changed("modules", 2, loader="magic"), "'loader' of module 3 cannot be 'magic'"),
        (changed("modules", 2, loader="custom"), "contradict each other"),
        (changed("modules", 2, custom=["what else"]), "'custom' of module 3 cannot be"),
        (changed("modules", 2, none_parameters=["weight"]), "the tensor '1.weight' is none as well"),
        (changed("modules", 2, path="0"), "the module '0' is there twice"),
        (changed("modules", 2, path="3.1"), "comes before the module it is in"),
        (changed("modules", 2, none=True), "is more than 'none'"),
        (changed("modules", 2, same_as="0"), "is more than 'same_as'"),
        (changed("modules", 0, none=True), "the root module is not the first"),
        (changed("modules", 0, same_as="0"), "the root module is not the first"),
        (json.dumps(BASE | {"modules": {}}), "'modules' of it cannot be {}"),
        (json.dumps(BASE | {"tensors": [[]]}), "tensor 1 is no object"),
        (json.dumps(BASE | {"torch": 2}), "'torch' of it cannot be 2"),
        (json.dumps(BASE | {"vector_into_scalar": 1}), "cannot be 1"),
        (json.dumps(BASE | {"ckptdiff_snapshot": True}), "is no version"),
        (json.dumps(BASE | {"ckptdiff_snapshot": 1.0}), "is no version"),
        (json.dumps(BASE | {"ckptdiff_snapshot": 2}), "is a snapshot of version 2"),
        (json.dumps(BASE).replace("[3, 2]", "[Infinity, 2]"), "Infinity is no number of JSON"),
        (json.dumps(BASE).replace("[3, 2]", "[1e999, 2]"), "1e999 is beyond range"),
        (json.dumps(BASE).replace("[3, 2]", f"[{'9' * 5000}, 2]"), "damaged"),
        (json.dumps(BASE).replace('"torch"', '"class": "", "torch"'), "'class' is there twice"),
        (json.dumps(BASE).replace("[3, 2]", "[" * 100_000 + "]" * 100_000), "nested too deeply"),
    ],
)
def test_what_no_model_can_have_given_is_refused_in_one_sentence(text: str, says: str) -> None:
    assert text != json.dumps(BASE)
    with pytest.raises(ModelError) as raised:
        loads(text, "model.json")
    assert says in raised.value.message
    assert len(raised.value.message) < 300
    assert "\n" not in raised.value.message


def described(**rows: dict[str, Any]) -> str:
    modules = [{"path": ""}, *({"path": path.replace("_", "."), **row} for path, row in rows.items())]
    return json.dumps({"ckptdiff_snapshot": 1, "modules": modules, "tensors": []})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (described(a={"same_as": ""}), "the module '' is within itself"),
        (described(a={}, a_b={"same_as": "a"}), "the module 'a' is within itself"),
        (described(a={}, b={}, a_b={"same_as": "b"}, b_a={"same_as": "a"}), "within itself"),
        (described(a={"same_as": "a"}), "which is no module"),
        (described(a={"same_as": "b"}), "is the same as 'b', which is no module"),
        (described(a={"none": True}, b={"same_as": "a"}), "which is no module"),
        (described(a={}, b={"same_as": "a"}, c={"same_as": "b"}), "which is no module"),
        (described(a={}, b={"same_as": "a"}, b_c={}), "is in 'b', which is described elsewhere or is none"),
        (described(a={"none": True}, a_c={}), "which is described elsewhere or is none"),
    ],
)
def test_no_module_is_within_itself_or_somewhere_else(text: str, says: str) -> None:
    with pytest.raises(ModelError) as raised:
        loads(text, "model.json")
    assert says in raised.value.message


def test_a_module_that_doubles_at_every_level_is_refused() -> None:
    rows: list[dict[str, Any]] = [{"path": ""}, {"path": "z"}]
    below = "z"
    for level in range(60):
        rows += [
            {"path": f"m{level}"},
            {"path": f"m{level}.a", "same_as": below},
            {"path": f"m{level}.b", "same_as": below},
        ]
        below = f"m{level}"
    text = json.dumps({"ckptdiff_snapshot": 1, "modules": rows, "tensors": []})
    with pytest.raises(ModelError, match="over 1,000,000 modules"):
        loads(text, "model.json")


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.sampled_from(["", "conv", "nested", "head.weight", "parameter", "custom", "float32", [0], [-1], {"": ""}]),
).map(copy.deepcopy)  # fmt: skip - what one example changes, the next must not find


@settings(max_examples=400)
@given(st.data())
def test_a_changed_snapshot_says_what_it_says_or_is_refused(data: st.DataObject) -> None:
    content = json.loads(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        holder: Any = content
        while True:
            if not isinstance(holder, (dict, list)) or not holder:
                break
            where = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
            if isinstance(holder[where], (dict, list)) and holder[where] and data.draw(st.integers(0, 9)):
                holder = holder[where]
                continue
            match data.draw(st.integers(0, 3)):
                case 0:
                    del holder[where]
                case 1:
                    holder[where] = data.draw(ATOMS)
                case 2 if isinstance(holder, dict):
                    holder[data.draw(st.sampled_from(["same_as", "none", "parent", "name", "tied_with", "x"]))] = (
                        data.draw(ATOMS)
                    )
                case _ if isinstance(holder, list):
                    holder.insert(0, holder[where])
                case _:
                    holder[where] = data.draw(ATOMS)
            break
    try:
        tree = loads(json.dumps(content), "model.json")
    except CkptdiffError:
        return
    # Nothing that was said is lost or means something else.
    written = json.loads(dumps(tree))
    assert [row["path"] for row in written["modules"]] == sorted(
        (row["path"] for row in content["modules"]), key=[row["path"] for row in written["modules"]].index
    )
    given_ = {(row["key"], row.get("name")): row for row in content["tensors"]}
    kept = {(row["key"], row.get("name")): row for row in written["tensors"]}
    assert {key for key, _ in given_} == {key for key, _ in kept}
    assert [row["shape"] for _, row in sorted(given_.items(), key=str)] == [
        row["shape"] for _, row in sorted(kept.items(), key=str)
    ] or any("name" in row for row in content["tensors"])


FINGERPRINT = "0" * 64
ROW = {"rule": "missing-key", "key": "a", "fingerprint": FINGERPRINT}


@pytest.mark.parametrize(
    "content",
    [
        {"ckptdiff_baseline": True, "targets": {}},
        {"ckptdiff_baseline": 1.0, "targets": {}},
        {"ckptdiff_baseline": 1, "targets": []},
        {"ckptdiff_baseline": 1},
        {"ckptdiff_baseline": 1, "targets": {}, "more": 1},
        {"ckptdiff_baseline": 1, "targets": {"a": {}}},
        {"ckptdiff_baseline": 1, "targets": {"a": [ROW | {"fingerprint": "0"}]}},
        {"ckptdiff_baseline": 1, "targets": {"a": [ROW | {"fingerprint": 5}]}},
        {"ckptdiff_baseline": 1, "targets": {"a": [ROW | {"key": None}]}},
        {"ckptdiff_baseline": 1, "targets": {"a": [ROW | {"more": ""}]}},
        {"ckptdiff_baseline": 1, "targets": {"a": [ROW, ROW]}},
        {"ckptdiff_baseline": 1, "targets": {"a": [[]]}},
        [],
        None,
        "ckptdiff_baseline",
    ],
)
def test_a_baseline_is_one_or_is_refused(content: object) -> None:
    assert baseline_of(json.dumps({"ckptdiff_baseline": 1, "targets": {"a": [ROW]}}), "b.json").targets
    with pytest.raises(CkptdiffError, match=r"b\.json is no ckptdiff baseline"):
        baseline_of(json.dumps(content), "b.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"ckptdiff_baseline": 1, "targets": {"a": [], "a": []}}', "\ufeff"])
def test_a_baseline_of_another_form(text: str) -> None:
    with pytest.raises(CkptdiffError, match=r"b\.json is no ckptdiff baseline"):
        baseline_of(text, "b.json")
