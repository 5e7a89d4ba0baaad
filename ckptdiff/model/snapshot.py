"""ModuleTree ↔ the snapshot file: a model's state-dict schema as reviewable JSON, to compare with where no torch is.

One line a module and one line a tensor, in the order `load_state_dict` visits them, so that a refactor gives a readable
diff. What has its default is left out. The text depends on the model alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ckptdiff.errors import ModelError
from ckptdiff.model.snapshot_rows import check, place
from ckptdiff.model.tree import Dialect, ModuleNode, ModuleTree, Slot
from ckptdiff.printable import json_text
from ckptdiff.small_files import json_of, text_of
from ckptdiff.spelling import Metavar, call
from ckptdiff.tensors import TensorInfo

SCHEMA_VERSION = 1
_KIND = "ckptdiff_snapshot"


def dumps(tree: ModuleTree) -> str:
    """The snapshot file of a model, ending with a newline. Values and the reference's own path are not in it."""
    modules: list[dict[str, Any]] = []
    tensors: list[dict[str, object]] = []
    first_path: dict[int, str] = {}
    first_key: dict[int, str] = {}
    stack: list[tuple[str, str, str | None, ModuleNode | None]] = [("", "", None, tree.root)]
    while stack:
        path, name, parent, node = stack.pop()
        row: dict[str, object] = {"path": path}
        if "." in name:
            row |= {"parent": parent, "name": name}
        if node is None:
            modules.append({**row, "none": True})
            continue
        if id(node) in first_path:
            modules.append({**row, "same_as": first_path[id(node)]})
            continue
        first_path[id(node)] = path
        modules.append({**row, **_module_row(node)})
        for tensor_name, slot in node.local.items():
            tensors.append(_tensor_row(path, tensor_name, slot, first_key))
        for tensor_name, info in node.non_persistent.items():
            tensors.append({**_place(path, tensor_name), "kind": "buffer", "persistent": False, **_info_row(info)})
        stack.extend(
            (f"{path}.{child}" if path else child, child, path, below)
            for child, below in reversed(list(node.children.items()))
        )
    head = {
        _KIND: SCHEMA_VERSION,
        "class": tree.root.qualified_name,
        "torch": tree.torch_version,
        **({"vector_into_scalar": True} if tree.dialect.vector_into_scalar else {}),
        **({"overrides_load_state_dict": True} if tree.overrides_load_state_dict else {}),
    }
    lines = [json_text(head, readable=True)[:-1] + ","]
    for title, rows, end in (("modules", modules, ","), ("tensors", tensors, "")):
        body = ",\n".join("  " + json_text(row, readable=True) for row in rows)
        lines.append(f' "{title}": [\n{body}\n ]{end}' if rows else f' "{title}": []{end}')
    return "\n".join(lines) + "\n}\n"


def read_snapshot(path: str) -> ModuleTree:
    """The model of a snapshot file. Raises CkptdiffError for what is none."""
    return loads(text_of(path, f"Write it with `{call('snapshot', Metavar('MODEL'), out=Metavar())}`."), path)


def loads(text: str, reference: str) -> ModuleTree:
    """The ModuleTree a snapshot file describes. `reference` names the file, for messages.

    Raises ModelError when the text is no snapshot, is of a later version, or contradicts itself.
    """
    try:
        content = json_of(text)
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) or f'"{_KIND}"' not in text:
            raise _none(reference) from None
        raise _damaged(reference, error) from None
    if not isinstance(content, dict) or _KIND not in content:
        raise _none(reference)
    version = content[_KIND]
    if type(version) is not int or version < 1:
        raise _damaged(reference, f"{_KIND!r} is no version")
    if version != SCHEMA_VERSION:
        raise ModelError(
            f"{reference} is a snapshot of version {version}; this ckptdiff reads version {SCHEMA_VERSION}.",
            "Update ckptdiff, or write the snapshot again.",
        )
    try:
        check(content)
    except ValueError as error:
        raise _damaged(reference, error) from None
    return _tree(content, reference)


def _none(reference: str) -> ModelError:
    return ModelError(
        f"{reference} is no ckptdiff snapshot.",
        f"Write one with `{call('snapshot', Metavar('MODEL'), out=Metavar('FILE'))}`.",
    )


def _damaged(reference: str, why: object) -> ModelError:
    return ModelError(f"{reference} is a damaged snapshot: {why}.", "Write the snapshot again.")


def _module_row(node: ModuleNode) -> dict[str, Any]:
    row: dict[str, object] = {"class": node.qualified_name}
    if node.class_name != node.qualified_name.rpartition(".")[2]:
        row["class_name"] = node.class_name
    if node.version != 1:
        row["version"] = node.version
    if node.loader != "plain":
        row["loader"] = node.loader
    if node.track_running_stats:
        row["track_running_stats"] = True
    if node.custom:
        row["custom"] = sorted(node.custom)
    if node.none_parameters:
        row["none_parameters"] = sorted(node.none_parameters)
    return row


def _place(path: str, name: str) -> dict[str, Any]:
    place: dict[str, object] = {"key": f"{path}.{name}" if path else name}
    if "." in name:
        place |= {"parent": path, "name": name}
    return place


def _tensor_row(path: str, name: str, slot: Slot, first_key: dict[int, str]) -> dict[str, Any]:
    row = {**_place(path, name), "kind": slot.kind, **_info_row(slot.tensor)}
    twin = first_key.setdefault(slot.identity, row["key"])
    if twin != row["key"]:
        row["tied_with"] = twin
    for flag, default in (("lazy", False), ("requires_grad", slot.kind == "parameter"), ("ordinary", True)):
        if getattr(slot, flag) != default:
            row[flag] = getattr(slot, flag)
    return row


def _info_row(info: TensorInfo) -> dict[str, Any]:
    row: dict[str, object] = {"dtype": info.dtype, "shape": list(info.shape)}
    if info.stride is not None:
        row["stride"] = list(info.stride)
    if info.layout != "strided":
        row["layout"] = info.layout
    if info.type_name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        row["type"] = info.type_name
    return row


def _tree(content: Mapping[str, Any], reference: str) -> ModuleTree:
    """What a snapshot says, which `check` has looked at."""
    children: dict[str, dict[str, str]] = {}
    rows: dict[str, Mapping[str, Any]] = {row["path"]: row for row in content["modules"]}
    for path, row in list(rows.items())[1:]:
        parent, name = place(row, path)
        children.setdefault(parent, {})[name] = path

    identities: dict[str, int] = {}
    identity = 0
    local: dict[str, dict[str, Slot]] = {path: {} for path in rows}
    non_persistent: dict[str, dict[str, TensorInfo]] = {path: {} for path in rows}
    for row in content["tensors"]:
        parent, name = place(row, row["key"])
        kind = row["kind"]
        info = _info(row, kind)
        if not row.get("persistent", True):
            non_persistent[parent][name] = info
            continue
        if "tied_with" in row:
            its_own = identities[row["tied_with"]]
        else:
            identity += 1
            its_own = identity
            identities.setdefault(row["key"], its_own)
        local[parent][name] = Slot(
            info,
            kind,
            its_own,
            row.get("lazy", False),
            row.get("requires_grad", kind == "parameter"),
            row.get("ordinary", True),
        )

    # A shared module may be named before it is described, so all modules are made before any is given its children.
    nodes: dict[str, ModuleNode | None] = {}
    below: dict[str, dict[str, ModuleNode | None]] = {path: {} for path in rows}
    for path, row in rows.items():
        if "same_as" not in row:
            described = _node(row, local[path], below[path], non_persistent[path])
            nodes[path] = None if row.get("none") else described
    for path, names in children.items():
        for name, child in names.items():
            below[path][name] = nodes[rows[child].get("same_as", child)]
    root = nodes[""]
    assert root is not None
    return ModuleTree(
        root,
        reference,
        "snapshot",
        content.get("torch", ""),
        Dialect(vector_into_scalar=content.get("vector_into_scalar", False)),
        content.get("overrides_load_state_dict", False),
    )


def _node(
    row: Mapping[str, Any],
    local: Mapping[str, Slot],
    children: Mapping[str, ModuleNode | None],
    non_persistent: Mapping[str, TensorInfo],
) -> ModuleNode:
    qualified_name = row.get("class", "")
    return ModuleNode(
        class_name=row.get("class_name", qualified_name.rpartition(".")[2]),
        qualified_name=qualified_name,
        local=local,
        children=children,
        none_parameters=tuple(row.get("none_parameters", ())),
        non_persistent=non_persistent,
        version=row.get("version", 1),
        loader=row.get("loader", "plain"),
        custom=tuple(row.get("custom", ())),
        odd_names=any("." in name for names in (local, children) for name in names),
        track_running_stats=row.get("track_running_stats", False),
    )


def _info(row: Mapping[str, Any], kind: str) -> TensorInfo:
    plain = "torch.nn.parameter.Parameter" if kind == "parameter" else "torch.Tensor"
    return TensorInfo(
        dtype=row["dtype"],
        shape=tuple(row["shape"]),
        stride=tuple(row["stride"]) if "stride" in row else None,
        layout=row.get("layout", "strided"),
        type_name=row.get("type", plain),
    )
