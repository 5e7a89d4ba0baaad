"""What the field's names mean: `query`, `wq` and `to_q` are one word, `ln` and `LayerNorm` another.

General knowledge of how networks are written, not of any one architecture. A word is evidence for a rename, never a
proof.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^A-Za-z0-9_.\s-]+")
_DIMENSION = re.compile(r"(?<=[a-z])[123]d(?![a-z])", re.IGNORECASE)

_SAME: dict[str, str] = {
    word: first
    for line in """
        attn attention att atten attentions selfattention selfattn mha
        mlp ffn ff feedforward moe
        kv wkv
        q query queries wq
        k key keys wk
        v value values wv
        o wo
        qkv wqkv
        gate wgate
        norm layernorm ln bn batchnorm normalization rmsnorm gn groupnorm layrnorm normalisation
        conv convolution cv sconv
        embed emb embedding embeddings embedder embeds
        pos position positional positions
        rel relative
        token tok tokens word words
        cls class
        vision visual image img vit
        text language lang lm llm textual
        audio speech acoustic
        layer layers block blocks blk resblocks resblock
        stage stages
        head classifier classification
        encoder enc
        decoder dec
        downsample downsampler downsamplers downsampling
        expert experts
        router routing
        shared shr
        final last f
        scale gamma lambda ls layerscale
        mean avg
        var variance
        proj projection linear lin dense fc c
        bias beta
        post after
        pre before
        depthwise dw dwconv
        pointwise pw pwconv
        sink sinks
        inv inverse
        freq frequency freqs
        param params parameter
        tgt target
        src source
        sep separator
        up upsample upsampling
        quant quantizer quantize
        codebook codebooks
        res residual
    """.strip().splitlines()
    for first, *words in [line.split()]
    for word in (first, *words)
}

# Runs of words inside one component that mean something together; the longest is tried first.
_PHRASES: dict[tuple[str, ...], tuple[str, ...]] = {
    tuple(words.split()): tuple(meaning.split())
    for words, meaning in {
        "layer norm": "norm",
        "batch norm": "norm",
        "group norm": "norm",
        "rms norm": "norm",
        "layer scale": "scale",
        "feed forward": "mlp",
        "self attn": "attn",
        "encoder attn": "cross attn",
        "cross attention": "cross attn",
        "crossattention": "cross attn",
        "multihead attn": "attn",
        "multi head attention": "attn",
        "query key value": "qkv",
        "q k v": "qkv",
        "c attn": "qkv",
        "att proj": "qkv",
        "to qkv": "qkv",
        "to q": "q",
        "to k": "k",
        "to v": "v",
        "to out": "o",
        "attn out": "o",
        "o proj": "o",
        "out proj": "o",
        "output proj": "o",
        "c proj": "proj",
        "g proj": "gate proj",
        "e score correction": "router expert",
        "c fc": "up",
        "fc in": "up",
        "fc out": "down",
        "dense h to 4 h": "up",
        "dense 4 h to h": "down",
        "ff out": "down",
        "gate up": "gate_up",
        "wte": "token embed",
        "wpe": "pos embed",
        "tok embeddings": "token embed",
        "lm head": "head",
        "shortcut": "shortcut downsample",
        "squeeze excite": "se",
        "squeeze excitation": "se",
        "class embed": "cls embed",
        "class token": "cls embed",
        "cls token": "cls embed",
        "class embedding": "cls embed",
        "cls embedding": "cls embed",
        "mask token": "mask embed",
        "ln f": "final norm",
    }.items()
}
_LONGEST = max(map(len, _PHRASES))

GENERIC = frozenset(
    {"proj", "layer", "stage", "self", "model", "module", "net", "network", "param", "backbone", "base", "main"}
)
"""Words that say little: wrappers and the ways to call a matrix."""

WEAK = frozenset(
    {"norm", "conv", "embed", "proj", "scale", "head", "bias", "weight", "expert", "attn", "mlp", "0", "1"}
)
"""Words that many tensors of a network share: alike in nothing else, two names are not alike."""

MEANT = frozenset({"attn", "mlp", "cross", "pre", "post", "input", "output", "q", "k", "v", "o", "gate", "up", "down"})
"""Words that say which of several, however many tensors share them."""

_EXCLUSIVE = (
    frozenset({"q", "k", "v", "o", "qkv"}),
    frozenset({"gate", "up", "down", "gate_up"}),
    frozenset({"encoder", "decoder"}),
    frozenset({"vision", "text", "audio", "video"}),
    frozenset({"mean", "var"}),
    frozenset({"row", "col", "column"}),
    frozenset({"height", "width"}),
    frozenset({"h", "w"}),
    frozenset({"local", "global"}),
    frozenset({"start", "end"}),
    frozenset({"left", "right"}),
    frozenset({"depthwise", "pointwise"}),
    frozenset({"token", "pos", "cls", "patch", "type", "mask"}),
    frozenset({"student", "teacher"}),
    frozenset({"norm", "conv"}),
    frozenset({"norm", "scale"}),
    frozenset({"reduce", "expand"}),
    frozenset({"shared", "expert"}),
)
_GROUPS: dict[str, list[frozenset[str]]] = {}
for _group in _EXCLUSIVE:
    for _word in _group:
        _GROUPS.setdefault(_word, []).append(_group)

PACKED = frozenset({"qkv", "gate_up", "kv", "qk"})
"""Several matrices in one tensor. In which order they lie is no matter of names."""

ROLES: dict[str, str] = {
    "weight": "w",
    "gamma": "w",
    "kernel": "w",
    "g": "w",
    "scale": "w",
    "bias": "b",
    "beta": "b",
    "b": "b",
    "running_mean": "mean",
    "running_var": "var",
    "moving_mean": "mean",
    "moving_variance": "var",
    "num_batches_tracked": "count",
}
"""What a tensor is to its module, by its own name; any other name is a parameter of its own, role `w`."""


def words(component: str) -> tuple[str, ...]:
    """The words of one component, each as the first of its synonyms, numbers as they are.

    >>> words("to_q"), words("post_attention_layernorm"), words("fc1")
    (('q',), ('post', 'attn', 'norm'), ('proj', '1'))
    """
    if component == "h":
        return ("layer",)
    raw = [piece.lower() for piece in _PIECES.findall(_DIMENSION.sub("", component))]
    out: list[str] = []
    place = 0
    while place < len(raw):
        for length in range(min(_LONGEST, len(raw) - place), 0, -1):
            meaning = _PHRASES.get(tuple(raw[place : place + length]))
            if meaning is not None:
                out.extend(meaning)
                place += length
                break
        else:
            word = raw[place]
            if (
                word not in _SAME
                and len(word) > 3
                and word.endswith("s")
                and not word.endswith(("ss", "us", "is", "as"))
            ):
                word = word[:-1]
            if len(word) == 2 and word[0] == "w" and word[1].isalpha():
                word = word[1]
            out.append(_SAME.get(word, word))
            place += 1
    return tuple(out)


def spoken(module: str) -> frozenset[str]:
    """The words of all components of a dotted name."""
    return frozenset(word for component in module.split(".") for word in words(component))


def contradict(words: frozenset[str], theirs: frozenset[str]) -> bool:
    """Whether one name says `q` where the other says `k`: words that exclude each other, with none in common."""
    return any(
        not (group & words & theirs)
        for word in words
        for group in _GROUPS.get(word, ())
        if word not in theirs and group & theirs
    )


def matrix_role(path: Sequence[str], spoken: Sequence[Sequence[str]]) -> str:
    """`o`, `qkv`, `up`, `down`, `router` or `head` where the place of a plainly named matrix tells: `attn.proj`,
    `attn.in_proj`, `mlp.c_proj`, `output.dense`, `moe.gate`, a `fc` or `output` of the model itself.

    `path` holds the components of the module's path and `spoken` their words.
    """
    last = {word for word in spoken[-1] if not word.isdigit()}
    above = {word for component in spoken[:-1] for word in component}
    before = list(spoken[-2]) if len(spoken) > 1 else []
    if spoken[-1] == ("gate",):
        return "router"
    if "attn" in above and path[-1] == "in_proj":
        return "qkv"
    if len(path) == 1 and (
        last == {"proj"} or (last & {"out", "output"} and last <= {"out", "output", "proj", "conv"})
    ):
        return "head"
    if not last or not last <= {"proj", "out", "output", "o"} or any(word.isdigit() for word in spoken[-1]):
        return ""
    if "attn" in above and "mlp" not in above:
        return "o"
    if before == ["intermediate"]:
        return "up"
    if (before == ["output"] and not (len(spoken) > 2 and spoken[-3])) or (
        "mlp" in above and (path[-1] == "c_proj" or last & {"out", "output"})
    ):
        return "down"
    return ""


def norm_rank(component: str, parents: Sequence[Sequence[str]] = ()) -> float | None:
    """Where a block's norm stands among its norms, by its name; None where the name does not say.

    Only the order of ranks means anything: input < pre-attention < attention < post-attention < … < final.
    """
    parts = words(component)
    if "norm" not in parts:
        return None
    said = [word for word in parts if word not in ("norm", "self")]
    if not said:
        above = {word for parent in parents for word in parent}
        if "attn" in above:
            return 3.0
        return 8.0 if above & {"output", "mlp"} else None
    number = [int(word) for word in said if word.isdigit()]
    rest = [word for word in said if not word.isdigit()]
    if number and not rest:
        return float(number[0])
    if number:
        return None
    meanings = {
        ("input",): 0.0,
        ("pre", "attn"): 1.0,
        ("pre",): 1.0,
        ("attn",): 2.0,
        ("sa",): 2.0,
        ("post", "attn"): 3.0,
        ("cross", "attn"): 4.0,
        ("pre", "mlp"): 5.0,
        ("mlp",): 6.0,
        ("post", "mlp"): 7.0,
        ("post",): 7.0,
        ("output",): 7.5,
        ("final",): 8.0,
    }
    return meanings.get(tuple(rest))
