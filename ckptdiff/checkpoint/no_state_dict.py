"""What to say where a file has no state dict, or none at the key asked for: what is there, and what can be reached."""

from __future__ import annotations

from ckptdiff.checkpoint.survey import MAX_NODES, MAX_STEPS, Candidate, is_other, says_so, survey, walk
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.entries import printable, summary
from ckptdiff.formats.pickles.modules import count_tensors, is_module
from ckptdiff.formats.pickles.stand_ins import Instance, Tensor
from ckptdiff.formats.reach import children, is_optimizer, many, numpy_values, unnamed_tensors, what
from ckptdiff.spelling import option

MAX_LISTED = 20
EXISTS = "State dicts in it"


def child_modules(value: object, key: str) -> list[Candidate]:
    """The modules directly in a module, which are state dicts too."""
    if type(value) is not Instance or not is_module(value):
        return []
    modules = [
        Candidate((*((key,) if key else ()), name), child, count_tensors(child, MAX_STEPS)[0])
        for name, child in list(children(value))[:MAX_LISTED]
        if type(child) is Instance and is_module(child)
    ]
    return [candidate for candidate in modules if candidate.tensors]


def below(value: object, key: str) -> list[Candidate]:
    """The state dicts inside a value that is none itself; of optimizers, the tensors of each parameter."""
    above = (key,) if key else ()
    lines = []
    for candidate in walk(survey(value)):
        if candidate.tensors and candidate.path:
            lines.append(Candidate((*above, *candidate.path), candidate.value, candidate.tensors))
        if is_optimizer(candidate.value):
            state = dict(children(candidate.value))["state"]
            lines += [
                Candidate((*above, *candidate.path, "state", *node.path), node.value, node.tensors)
                for node in walk(survey(state))
                if node.tensors
            ]
    return lines


def exists(listed: list[Candidate]) -> str:
    """The hint that lists what `key` may name, with how many tensors each holds."""
    named = [node for node in listed if node.path]
    # Paths share their names, and are long only once they are joined.
    names = [f"{'.'.join(node.path)[:200]!r} ({many(node.tensors, 'tensor')})" for node in named[:MAX_LISTED]]
    if not names:
        return (
            f"Its state dict is at the top level: leave {option('key')} out."
            if listed
            else "It holds no state dict at all."
        )
    more = f" and {len(named) - MAX_LISTED} more" if len(named) > MAX_LISTED else ""
    return f"{EXISTS}, for {option('key')}: {', '.join(names)}{more}."


def without_tensors(name: str, top: Candidate) -> Candidate:
    """The only state dict of objects alone, or of a module that has no tensors. Raises CheckpointError for none."""
    telling = [node for node in walk(top) if says_so(node.value) and not any(map(is_other, node.path))]
    if telling and (len(telling) == 1 or telling[0] is top):
        return telling[0]
    raise nothing(name, top)


def nothing(name: str, top: Candidate) -> CheckpointError:
    """What the file holds instead of a state dict, and where in it tensors are."""
    root = top.value
    reached = below(root, "")
    if reached or any(is_optimizer(node.value) for node in walk(top)):
        whose = "an optimizer's state, not a model's" if any(is_optimizer(node.value) for node in walk(top)) else ""
        return CheckpointError(
            f"{name} holds {whose or f'{what(root)}, and no state dict of a model'}",
            exists(reached) if reached else "Give the checkpoint that holds the model.",
        )
    unnamed = [(node.path, unnamed_tensors(node.value)) for node in walk(top) if unnamed_tensors(node.value)]
    if type(root) is Tensor:
        return CheckpointError(f"{name} holds a single tensor, not a state dict", "Give a file of named tensors.")
    if unnamed:
        places = ", ".join(f"{count} at {'.'.join(path)[:200]!r}" for path, count in unnamed[:5] if path)
        more = ", …" if places and len(unnamed) > 5 else ""
        held = what(root)
        if "tensor" not in held:
            held += f" with {many(sum(count for _, count in unnamed), 'tensor')} in it"
            held += f" ({places}{more})" if places else ""
        return CheckpointError(
            f"{name} holds {held}, and no state dict",
            "A state dict maps names to tensors, as torch.save(model.state_dict(), path) writes it.",
        )
    arrays = numpy_values(root, MAX_NODES)
    if arrays:
        return CheckpointError(
            f"{name} holds {many(arrays, 'numpy value')} and no tensors, and load_state_dict takes only tensors",
            "Convert them with torch.from_numpy and save them with torch.save.",
        )
    if type(root) is Instance and not root.pairs and not root.items:
        return CheckpointError(f"{name} holds {what(root)}, and no tensors", "Give a checkpoint with a state dict.")
    return CheckpointError(
        f"{name} is a pickle without tensors ({printable(summary(root))})", "Give a checkpoint with a state dict."
    )
