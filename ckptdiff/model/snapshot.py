"""ModuleTree ↔ the snapshot file: a model's state-dict schema as reviewable JSON, to compare with where no torch is.

One line a module and one line a tensor, in the order `load_state_dict` visits them, so that a refactor gives a readable
diff. What has its default is left out. The text depends on the model alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ckptdiff.errors import ModelError
from ckptdiff.inert import json_text
from ckptdiff.model.tree import Dialect, ModuleNode, ModuleTree, Slot
from ckptdiff.tensors import DTYPES, TensorInfo

SCHEMA_VERSION = 1
_KIND = "ckptdiff_snapshot"


def dumps(tree: ModuleTree) -> str:
    """The snapshot file of a model, ending with a newline. Values and the reference's own path are not in it."""
    modules: list[dict[str, Any]] = []
    tensors: list[dict[str, Any]] = []
    first_path: dict[int, str] = {}
    first_key: dict[int, str] = {}
    stack: list[tuple[str, str, str | None, ModuleNode | None]] = [("", "", None, tree.root)]
    while stack:
        path, name, parent, node = stack.pop()
        row: dict[str, Any] = {"path": path}
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


def loads(text: str, reference: str) -> ModuleTree:
    """The ModuleTree a snapshot file describes. `reference` names the file, for messages.

    Raises ModelError when the text is no snapshot, is of a later version, or contradicts itself.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or _KIND not in content:
        raise ModelError(f"{reference} is no ckptdiff snapshot.", "Write one with `ckptdiff snapshot MODEL -o FILE`.")
    if content[_KIND] != SCHEMA_VERSION:
        raise ModelError(
            f"{reference} is a snapshot of version {content[_KIND]}; this ckptdiff reads version {SCHEMA_VERSION}.",
            "Update ckptdiff, or write the snapshot again.",
        )
    try:
        return _tree(content, reference)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{reference} is a damaged snapshot: {type(error).__name__}: {error}.", "Write the snapshot again."
        ) from error


def _module_row(node: ModuleNode) -> dict[str, Any]:
    row: dict[str, Any] = {"class": node.qualified_name}
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
    place: dict[str, Any] = {"key": f"{path}.{name}" if path else name}
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
    row: dict[str, Any] = {"dtype": info.dtype, "shape": list(info.shape)}
    if info.stride is not None:
        row["stride"] = list(info.stride)
    if info.layout != "strided":
        row["layout"] = info.layout
    if info.type_name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        row["type"] = info.type_name
    return row


def _tree(content: Mapping[str, Any], reference: str) -> ModuleTree:
    children: dict[str, dict[str, str]] = {}
    rows: dict[str, Mapping[str, Any]] = {}
    for row in content["modules"]:
        path = row["path"]
        parent, _, name = path.rpartition(".")
        if path in rows:
            raise ValueError(f"the module {path!r} is there twice")
        rows[path] = row
        if len(rows) > 1:
            parent, name = row.get("parent", parent), row.get("name", name)
            if parent not in rows:
                raise ValueError(f"the module {path!r} comes before the one it is in")
            children.setdefault(parent, {})[name] = path
    if next(iter(rows), None) != "":
        raise ValueError("the root module is not the first")

    identities: dict[str, int] = {}
    local: dict[str, dict[str, Slot]] = {path: {} for path in rows}
    non_persistent: dict[str, dict[str, TensorInfo]] = {path: {} for path in rows}
    for row in content["tensors"]:
        parent, _, name = row["key"].rpartition(".")
        parent, name = row.get("parent", parent), row.get("name", name)
        kind = row["kind"]
        info = _info(row, kind)
        if not row.get("persistent", True):
            non_persistent[parent][name] = info
            continue
        twin = row.get("tied_with", row["key"])
        identity = identities.setdefault(row["key"], identities.get(twin, len(identities)))
        requires_grad = bool(row.get("requires_grad", kind == "parameter"))
        local[parent][name] = Slot(
            info, kind, identity, bool(row.get("lazy")), requires_grad, bool(row.get("ordinary", True))
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
    if root is None:
        raise ValueError("the root module is none")
    return ModuleTree(
        root,
        reference,
        "snapshot",
        str(content.get("torch", "")),
        Dialect(vector_into_scalar=bool(content.get("vector_into_scalar"))),
        bool(content.get("overrides_load_state_dict")),
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
        track_running_stats=bool(row.get("track_running_stats")),
    )


def _info(row: Mapping[str, Any], kind: str) -> TensorInfo:
    if row["dtype"] not in DTYPES:
        raise ValueError(f"there is no dtype {row['dtype']!r}")
    plain = "torch.nn.parameter.Parameter" if kind == "parameter" else "torch.Tensor"
    return TensorInfo(
        dtype=row["dtype"],
        shape=tuple(int(size) for size in row["shape"]),
        stride=tuple(int(step) for step in row["stride"]) if "stride" in row else None,
        layout=row.get("layout", "strided"),
        type_name=row.get("type", plain),
    )
