"""The rule table: everything ckptdiff can say of a model and a checkpoint, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ckptdiff.spelling import option

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""From the gravest to the least. An error is what makes `load_state_dict(strict=True)` raise or leaves nothing of use;
a warning is what torch does without a word and may change results; a note is good to know."""

_MODULE = "https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html"
_LOAD = f"{_MODULE}#torch.nn.Module.load_state_dict"
_SAVING = "https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html"
_SERIALIZATION = "https://docs.pytorch.org/docs/stable/notes/serialization.html"
_OPTION = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that can be found.

    `message` is a phrase on one finding, to be filled with the finding's arguments (see `findings.py`); `{what}` stands
    for its kind, dtype, shape or type, whichever of them it has.
    `text` says what it means and what to do; `help` is what `ckptdiff rules ID` prints of it.

    `about` says what a finding is about: a key, or the whole, so that its key may be no key of either side, or "".
    `phrases` are the arguments that are made of the others, or are messages of torch's or of the user's code: a finding
    is the same one whatever they say. `folded_by` is the one argument that findings of folded keys have to share, ""
    for all of them. `forgives` is the kind of problem that loses nothing where its key has this finding too.
    `advises`: it says what would help, and is told as advice. `brief`: many of them say no more than one does.
    `kind` says what its key is where that is none of a state dict: a global, or a prefix that the file has.
    """

    id: str
    level: Level
    summary: str
    message: str
    text: str
    link: str
    about: Literal["key", "whole"] = "key"
    phrases: frozenset[str] = frozenset()
    folded_by: str = ""
    forgives: Literal["missing", "unexpected", "either", ""] = ""
    advises: bool = False
    brief: bool = False
    kind: Literal["global", "wrapping", ""] = ""

    @property
    def help(self) -> str:
        """`text`, with the options it names in braces as they are called."""
        return _OPTION.sub(lambda named: option(named[1]), self.text)


_TABLE = (
    Rule(
        "missing-key",
        "error",
        "The model has it, the checkpoint does not.",
        "{what}",
        "load_state_dict(strict=True) raises. With strict=False the tensor keeps the value it was initialised "
        "with, which for a trained layer means random numbers.\n"
        "Usual causes: a layer was added or renamed, the keys carry a prefix, or another part of the "
        "checkpoint holds the weights (see `ckptdiff inspect`).",
        _LOAD,
    ),
    Rule(
        "unexpected-key",
        "error",
        "The checkpoint has it, the model does not.",
        "{what}",
        "load_state_dict(strict=True) raises. With strict=False the tensor is left unused.\n"
        "Usual causes: a layer was removed or renamed, the keys carry a prefix, or the checkpoint belongs to "
        "a larger model, such as one with a training head.",
        _LOAD,
    ),
    Rule(
        "size-mismatch",
        "error",
        "Both sides have the key, with different shapes.",
        "checkpoint {checkpoint_shape}, model {model_shape}",
        "load_state_dict raises, and strict=False does not help. The other keys are loaded before it raises.\n"
        "Usual causes: another number of classes, another vocabulary, another width or image size. Build the "
        "model with the checkpoint's sizes, or leave these keys out of the state dict.",
        "https://github.com/pytorch/pytorch/issues/40859",
    ),
    Rule(
        "not-a-tensor",
        "error",
        "The model wants a tensor and the checkpoint holds something else.",
        "the checkpoint holds a value of type {type}",
        "load_state_dict raises, and strict=False does not help.\n"
        "Usual causes: numpy arrays saved in place of tensors, or a whole module saved where its state dict "
        "was meant.",
        _SAVING,
    ),
    Rule(
        "initial-value",
        "error",
        "The loader leaves it as the constructor made it.",
        "keeps its initial value: {what}",
        "The loader was run as it stands, and nothing of a file reached this key: it keeps what the model was "
        "initialised with, which for a trained layer means random numbers, whether or not the loader says so.\n"
        "Usual causes: the keys carry a prefix and strict=False hides it, a layer was renamed, or the head is new. "
        "What is meant to be new can be ignored in a target of `ckptdiff check`.",
        _LOAD,
    ),
    Rule(
        "no-values",
        "error",
        "It has no value after loading, and torch does not raise.",
        "the {side}'s tensor is on the meta device",
        "A tensor on the meta device is a shape without memory. With assign=True one of the checkpoint's takes the "
        "place of the model's; without, torch copies nothing into one of the model's, and only warns.\n"
        "Usual causes: a state dict saved before the weights were loaded (init_empty_weights, torch.device('meta')), "
        "or a model built that way and loaded without assign=True or to_empty(device=...). In a model it is a warning: "
        "the checkpoint may be the right one.",
        _LOAD,
    ),
    Rule(
        "filled-in-part",
        "error",
        "The loader fills a part of it, and the rest keeps initial values.",
        "{text}",
        "Some elements come from the file and the others are what the constructor made: a stacked projection of which "
        "one is missing in the file, a vocabulary that has grown.\n"
        "If the rest is meant to be new, initialise it on purpose after loading.",
        _LOAD,
        phrases=frozenset({"text"}),
    ),
    Rule(
        "conversion-error",
        "error",
        "The loader makes it of what the file holds, and cannot.",
        "{text}",
        "Loaders rename, stack, split and cast on the way from the file's layout to the model's. Here that fails, so "
        "the key gets no value: a part is missing in the file, or has another shape than the others.",
        _LOAD,
        phrases=frozenset({"text"}),
    ),
    Rule(
        "load-error",
        "error",
        "Loading fails in another way.",
        "{text}",
        "torch's own code, or a hook or override of a module of the model, reports an error while loading; "
        "the text is what torch would show.",
        _LOAD,
        about="whole",
        phrases=frozenset({"text"}),
    ),
    Rule(
        "overwritten",
        "warning",
        "It was loaded, and then replaced by something that comes from no file.",
        "written over {text}",
        "Code that ran after loading wrote other values there: an initialisation that comes too late, a new head.",
        _LOAD,
        phrases=frozenset({"text"}),
    ),
    Rule(
        "ignored-key",
        "warning",
        "The checkpoint has it, and loading goes on without it.",
        "{what}",
        "load_state_dict(strict=True) reports success and drops keys below a child registered as None: a key is only "
        "called unexpected when its module has no child of that name, and a child that is None counts as one.\n"
        "Usual cause: an option switched a part of the model off (self.downsample = None).\n"
        "Loaders such as from_pretrained leave unexpected keys aside by design, with a line in their log: the file "
        "belongs to a larger model, or a part of this one has another name in it.",
        _LOAD,
    ),
    Rule(
        "lossy-dtype",
        "warning",
        "Values may not survive the model's dtype; torch casts without a word.",
        "{checkpoint_dtype} is cast to {model_dtype}: {loss}",
        "Parameters are filled with copy_, which converts to the model's dtype whatever that loses: numbers "
        "beyond the range become infinite or wrap around, fractions are cut off, digits are rounded, "
        "imaginary parts are dropped.\n"
        "Reported whenever some value of the checkpoint's dtype has no equal in the model's dtype. Load into "
        "a model of the checkpoint's dtype, or convert on purpose after loading.",
        "https://docs.pytorch.org/docs/stable/generated/torch.Tensor.copy_.html",
        phrases=frozenset({"loss"}),
        brief=True,
    ),
    Rule(
        "cast-overflow",
        "warning",
        "The model's dtype cannot hold some of the values, which were read.",
        "{checkpoint_dtype} is cast to {model_dtype}: {lost} of {total} values {effect}, first at {first}",
        "Found with {check_values}. Between floating-point dtypes it counts the finite values that become infinite, "
        "NaN or the dtype's largest number, and leaves rounding aside; where one of the two is no such dtype it "
        "counts the values that become another number.\n"
        "Load into a model of the checkpoint's dtype, or clip or scale the values on purpose.",
        "https://docs.pytorch.org/docs/stable/generated/torch.Tensor.copy_.html",
        phrases=frozenset({"effect"}),
    ),
    Rule(
        "non-finite-values",
        "warning",
        "Some of the values, which were read, are NaN or infinite.",
        "{nan} NaN and {infinite} infinite of {total} values, first at {first}",
        "Found with {check_values}. torch loads them as any other value.\n"
        "Usual causes: training that diverged, or an earlier overflow in half precision. An attention mask kept as a "
        "buffer may hold -inf on purpose.",
        "https://docs.pytorch.org/docs/stable/generated/torch.isfinite.html",
    ),
    Rule(
        "tied-values-differ",
        "warning",
        "Two keys with separate values load into one tensor of the model; the last one wins.",
        "shares its tensor with {twin}, which is loaded later and wins; {stored}",
        "The model ties the two names to one tensor, the checkpoint stores them apart. torch copies one after "
        "the other into the same memory, so only the last one stays. Harmless when both hold the same values; "
        "otherwise the model is not the one that was trained. {check_values} compares them.",
        _SAVING,
        phrases=frozenset({"stored"}),
    ),
    Rule(
        "untied",
        "warning",
        "One tensor in the model under two names, until assign=True makes two of it.",
        "no longer one tensor with {twin}",
        "With assign=True load_state_dict puts the checkpoint's tensors in the place of the model's, name by name, so "
        "that tied weights are tied no more: a name that is missing keeps the old tensor, and training moves the two "
        "apart. Tie them again after loading (tie_weights in transformers), or load without assign.",
        _LOAD,
    ),
    Rule(
        "assigned-device",
        "warning",
        "With assign=True the model's tensor goes to where the file's is.",
        "on {model_device} in the model, on {checkpoint_device} afterwards",
        "With assign=True load_state_dict copies nothing: the checkpoint's tensors take the place of the model's, on "
        "the device that torch.load has put them on. A model on a GPU is then on the CPU, or the other way, and an "
        "optimizer that was made before holds the old tensors. Read with map_location, or move the model afterwards.",
        _LOAD,
    ),
    Rule(
        "devices-differ",
        "warning",
        "With assign=True the tensors of one module are on different devices afterwards.",
        "on {device} afterwards, and {twin} of the same module on {other}",
        "With assign=True each key goes to the device of its own tensor in the file, and what the file lacks stays "
        "where it was: the forward pass raises. Read the file with map_location, or move the module afterwards.",
        _LOAD,
    ),
    Rule(
        "lazy-parameter",
        "warning",
        "The model's tensor is uninitialized and takes any shape.",
        "takes any shape, here {checkpoint_shape}",
        "A lazy module (LazyLinear, LazyConv2d, …) has no shapes until its first forward pass, so nothing can "
        "be checked: a wrong checkpoint loads as well as the right one. Run one forward pass, or build the "
        "layer with its sizes.",
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.modules.lazy.LazyModuleMixin.html",
    ),
    Rule(
        "uncertain",
        "warning",
        "Something about the answer could not be known.",
        "{text}",
        "The model's own code takes part in loading and could not be followed, so torch may do something else "
        "than what is reported here.",
        _LOAD,
        about="whole",
        phrases=frozenset({"text"}),
    ),
    Rule(
        "machine",
        "warning",
        "The model's code goes by the machine: on another one it is another model.",
        "on {machine} {text}",
        "The constructor asked what devices there are (torch.cuda.is_available, device_count, get_device_capability) "
        "and made other keys or shapes for the answer. This report holds for the machine that it names; {device} asks "
        "about another one.",
        "https://docs.pytorch.org/docs/stable/notes/cuda.html",
        about="whole",
        phrases=frozenset({"text"}),
    ),
    Rule(
        "saved-on",
        "warning",
        "Reading it raises on this machine, which lacks the device that it was saved on.",
        "{call} raises {text}",
        "A file remembers the device of each tensor, and torch.load puts the tensors back there. Where there is no "
        "such device, map_location has to say another one.\n"
        'torch.load(path, map_location="cpu") reads the file on every machine. Whether load_state_dict takes what it '
        "gives is another question, which is the one that is answered here.",
        "https://docs.pytorch.org/docs/stable/generated/torch.load.html",
        about="whole",
        phrases=frozenset({"text", "call"}),
    ),
    Rule(
        "unsafe-global",
        "warning",
        "The file names Python objects that ordinary checkpoints do not need.",
        "named by the file; torch.load(weights_only=True) refuses it unless allowed",
        "ckptdiff imports and runs nothing a file names. torch.load(weights_only=False) does: with a file "
        "from an untrusted source that is running a stranger's program. If you trust it, allow the names with "
        "torch.serialization.add_safe_globals.",
        _SERIALIZATION,
        about="whole",
        brief=True,
        kind="global",
    ),
    Rule(
        "weights-only",
        "warning",
        "torch.load refuses the file unless weights_only=False.",
        "torch.load(weights_only=True) says: {text}",
        "Since 2.6 torch.load reads with an unpickler that knows only what torch.save writes today. Files of Python 2, "
        "of other pickle protocols or with objects inside need weights_only=False, which runs what the file says: only "
        "for files you trust. Or write the file anew with ckptdiff rewrite, which runs nothing.",
        _SERIALIZATION,
        about="whole",
        phrases=frozenset({"text"}),
    ),
    Rule(
        "unused-key",
        "note",
        "The loader read it from the file, and it reaches nothing of the model.",
        "fills nothing",
        "The tensor was given to the loader and no key of the model holds anything of it.",
        _LOAD,
    ),
    Rule(
        "dtype-change",
        "note",
        "The dtypes differ, and every value survives the cast.",
        "{checkpoint_dtype} is cast to {model_dtype}",
        "Parameters are filled with copy_, which converts to the model's dtype. Nothing is lost here.",
        "https://docs.pytorch.org/docs/stable/generated/torch.Tensor.copy_.html",
        brief=True,
    ),
    Rule(
        "assigned-dtype",
        "note",
        "The dtypes differ, and with assign=True the model takes the checkpoint's.",
        "{model_dtype} in the model becomes {checkpoint_dtype}",
        "With assign=True load_state_dict converts nothing: the checkpoint's tensors take the place of the model's, in "
        "their own dtype. Layers of several dtypes may not work together; Module.to makes them one.",
        _LOAD,
        brief=True,
    ),
    Rule(
        "tied-alias",
        "note",
        "Missing, but the tensor it is tied to is present.",
        "tied to {twin}, which is present",
        "Both names are one tensor in the model, so nothing is lost when only one of them is loaded. "
        "load_state_dict(strict=True) still raises; strict=False gives a completely loaded model.\n"
        "Usual cause: formats that store shared memory once, such as safetensors.",
        "https://huggingface.co/docs/safetensors/torch_shared_tensors",
        forgives="missing",
        brief=True,
    ),
    Rule(
        "non-persistent",
        "note",
        "Unexpected, but the model has it as a non-persistent buffer.",
        "computed by the model",
        "The model computes this buffer itself and keeps it out of its state dict, as position_ids in newer "
        "releases of transformers. Dropping the key loses nothing, yet load_state_dict(strict=True) raises.",
        f"{_MODULE}#torch.nn.Module.register_buffer",
        forgives="unexpected",
        brief=True,
    ),
    Rule(
        "harmless-key",
        "note",
        "Missing or unexpected, and no weight depends on it.",
        "{text}",
        "All parameters of the model are loaded, and by name and shape this key is none: a table that is computed, a "
        "mask, a counter, a part of the loss. strict=False loses nothing by it; `ckptdiff filter` leaves it out.",
        _LOAD,
        phrases=frozenset({"text"}),
        forgives="either",
        brief=True,
    ),
    Rule(
        "scalar-reshape",
        "note",
        "A one-dimensional tensor is loaded into a scalar.",
        "checkpoint {checkpoint_shape}, model []: its first value is taken",
        "For checkpoints of torch 0.3 and older, load_state_dict takes the first value of a one-dimensional "
        "tensor where the model has a scalar. It does so for any length: more than one value is reported as a "
        "warning.",
        _LOAD,
    ),
    Rule(
        "version-upgrade",
        "note",
        "Missing from an old checkpoint, and supplied by torch.",
        "supplied",
        "BatchNorm has had num_batches_tracked since version 2 of its state dict. For a checkpoint that says "
        "it is older, or says nothing in its _metadata, torch supplies the value instead of calling it "
        "missing.\n"
        "The same keys without _metadata or with it give different answers; safetensors files never have it.",
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html",
        brief=True,
    ),
    Rule(
        "hook-rename",
        "note",
        "Code of the model renamed, dropped or added keys while loading.",
        "{change}",
        "A load_state_dict hook or an override of _load_from_state_dict changed the keys before they were "
        "matched, often to accept an older layout. The report is about the keys as the module left them.",
        f"{_MODULE}#torch.nn.Module.register_load_state_dict_pre_hook",
        phrases=frozenset({"change"}),
        folded_by="change",
    ),
    Rule(
        "converted",
        "note",
        "The loader renames it or makes it of other keys.",
        "{change}",
        "The file has another layout than the model, which the loader knows: an older name, a base model's prefix, "
        "experts one by one, projections fused or apart. The report is about what the model ends with.",
        _LOAD,
        phrases=frozenset({"change"}),
        folded_by="change",
    ),
    Rule(
        "prefix",
        "note",
        "Every key matches after stripping or adding a prefix.",
        "all {matched} keys of the {side} match after {operation} it",
        "The names differ by leading components alone, as after saving a wrapped model: module. of "
        "DataParallel, _orig_mod. of torch.compile, model. of a trainer. Plain load_state_dict does not strip "
        "them, so neither does ckptdiff.",
        _SAVING,
        about="whole",
        advises=True,
        kind="wrapping",
    ),
)

RULES: dict[str, Rule] = {rule.id: rule for rule in _TABLE}


def reaches(level: Level, threshold: Level) -> bool:
    """Whether `level` is as grave as `threshold` or graver."""
    return LEVELS.index(level) <= LEVELS.index(threshold)
