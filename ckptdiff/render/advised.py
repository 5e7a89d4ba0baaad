"""The words for what would help."""

from __future__ import annotations

from collections.abc import Callable

from ckptdiff.judging.advice import Advice, Kind
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count, number
from ckptdiff.spelling import Metavar, call, option, options


def sentence(advice: Advice) -> str:
    """One advice as a sentence, escaped."""
    return _WORDS[advice.kind](advice)


def remaining(counts: dict[str, int]) -> str:
    """`2 missing, 1 unexpected keys`: what stands in the way still, by kind."""
    said = [f"{amount} {kind}" for kind, amount in counts.items() if amount]
    return f"{', '.join(said)} {'key' if sum(counts.values()) == 1 else 'keys'}" if said else "other errors"


def _effect(advice: Advice) -> str:
    if advice.facts["loads"]:
        return "it loads"
    return f"what remains is {remaining({k: int(advice.facts[k]) for k in ('missing', 'unexpected', 'mismatched')})}"


def _prefix(advice: Advice) -> str:
    matched = int(advice.facts["matched"])
    reshaped = matched - int(advice.facts["same_shape"])
    shapes = f" ({number(reshaped)} of them with another shape)." if reshaped else ""
    *steps, (step, _) = advice.options
    others = [f", or {options(*steps, (step, other))}" for other in str(advice.facts.get("alike", "")).split()[:3]]
    which = "".join(others) + ": which copy is meant, nothing says" if others else ""
    return (
        f"All {count(matched, 'key')} of the {advice.facts['side']} match after {options(*advice.options)}"
        f"{which or shapes}"
    )


def _sides(advice: Advice) -> tuple[str, str]:
    """Both sides as they are named, or as a caller's own."""
    model, checkpoint = advice.sides
    return model or Metavar("model"), checkpoint or Metavar("state_dict")


def _save_rules(advice: Advice) -> str:
    rules = count(int(advice.facts["rules"]), "rule")
    what = call("suggest", *_sides(advice), **{name: Metavar(value) for name, value in advice.options})
    return f"`{what}` writes {rules}; with them {_effect(advice)}."


def _ambiguous(advice: Advice) -> str:
    keys = count(int(advice.facts["keys"]), "key")
    return f"{keys} could be renamed in several ways: see `{call('suggest', *_sides(advice))}`."


def _not_looked_for(advice: Advice) -> str:
    keys = int(advice.facts["keys"])
    return f"Whether renaming helps was not looked for among {keys:,} keys: see `{call('suggest', *_sides(advice))}`."


def _arguments(advice: Advice) -> str:
    what = call("suggest", *_sides(advice))
    return f"Sizes differ: `{what}` looks for arguments of the constructor with which it loads."


def _adapt(advice: Advice) -> str:
    keys = int(advice.facts["keys"])
    quantized = dict(advice.options)["adapt"].endswith("=dequantize")
    what = ("quantized tensor", "quantized tensors") if quantized else ("size mismatch", "size mismatches")
    mismatches = count(keys, *what)
    return f"`ckptdiff fix` answers {mismatches} with {options(*advice.options)}: {advice.facts['text']}."


def _not_strict(advice: Advice) -> str:
    unexpected, aliases = (int(advice.facts.get(name, 0)) for name in ("unexpected", "aliases"))
    drops = f", and `ckptdiff filter` drops {count(unexpected, 'key')}" if unexpected else ""
    writes = f" With {option('fill_missing')} it writes the tied ones under each of their names." if aliases else ""
    if not advice.facts.get("harmless"):
        writes = writes.replace(" it writes", " `ckptdiff filter` writes")
        return (
            "Nothing is lost with load_state_dict(state_dict, strict=False): "
            f"the keys that differ are tied to loaded ones or computed by the model.{writes}"
        )
    return f"All parameters are covered: strict=False loses nothing{drops}.{writes}"


def _other_state_dict(advice: Advice) -> str:
    tensors = count(int(advice.facts["tensors"]), "tensor")
    return f"The file holds another state dict of {tensors}: try {options(*advice.options)}"


_WORDS: dict[Kind, Callable[[Advice], str]] = {
    "prefix": _prefix,
    "rename": lambda advice: plain(f"After {options(*advice.options)} {_effect(advice)}.", 1000),
    "save-rules": lambda advice: plain(_save_rules(advice), 1000),
    "head": lambda advice: plain(str(advice.facts["text"]), 600),
    "ambiguous": lambda advice: plain(_ambiguous(advice), 1000),
    "not-looked-for": lambda advice: plain(_not_looked_for(advice), 1000),
    "arguments": lambda advice: plain(_arguments(advice), 1000),
    "filter": lambda advice: (
        f"`ckptdiff filter` writes the {advice.facts['tensors']} tensors that load, without the mismatched ones."
    ),
    "not-strict": _not_strict,
    "other-state-dict": _other_state_dict,
    "adapt": lambda advice: plain(_adapt(advice), 1000),
    "clean": lambda _: (
        "torch.load(path) raises since torch 2.6, for what the file holds besides. `ckptdiff rewrite` writes the state "
        f"dict alone and runs nothing; {option('keep_container')} keeps what is plain beside it."
    ),
    "beyond-repair": lambda advice: plain(str(advice.facts["text"]), 1000),
}
