"""What torch's `load_state_dict` says, read off an Outcome: the text that it raises, to the letter and the order."""

from __future__ import annotations

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.loaders.outcome import Loader, Machine, Outcome
from ckptdiff.loaders.torch.accounting import completed
from ckptdiff.model.tree import ModuleTree


def torch_loader(version: str, *, assign: bool = False) -> Loader:
    """`nn.Module.load_state_dict` of one release of torch."""
    return Loader("torch", version, f"load_state_dict(state_dict{', assign=True' if assign else ''})", "walk")


def refused(tree: ModuleTree, checkpoint: Checkpoint, error: str) -> Outcome:
    """The outcome for a value that `load_state_dict` turns away before it looks at a key."""
    filled, _ = completed(tree, {}, assign=False, whole=False)
    loader = torch_loader(tree.torch_version)
    return Outcome(loader, Machine(tree.torch_version), tree, checkpoint, filled, raised=error)


def error_messages(outcome: Outcome) -> list[str]:
    """What torch collects beside missing and unexpected keys, in its order."""
    return [problem.text for problem in outcome.problems if problem.kind not in ("missing", "unexpected")]


def error_message(outcome: Outcome, strict: bool = True) -> str | None:
    """The text torch would raise, to the letter; None if it would load. For another loader, what its call raises."""
    if outcome.raised is not None or outcome.loader.name != "torch":
        return outcome.raised
    messages = error_messages(outcome)
    if strict:
        unexpected, missing = outcome.problem_keys("unexpected"), outcome.problem_keys("missing")
        for title, keys in (("Unexpected", unexpected), ("Missing", missing)):
            if keys:
                listed = ", ".join(f'"{key}"' for key in keys)
                messages.insert(0, f"{title} key(s) in state_dict: {listed}. ")
    if not messages:
        return None
    return f"Error(s) in loading state_dict for {outcome.model.root.class_name}:\n\t" + "\n\t".join(messages)


def loads(outcome: Outcome, strict: bool = True) -> bool:
    """Whether torch would load without raising."""
    return error_message(outcome, strict) is None
