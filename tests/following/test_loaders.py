"""Every kind of loader that people write is answered as it acts: what it fills, what it raises, what it leaves."""

from __future__ import annotations

import gc
from functools import partial
from importlib.util import find_spec
from types import CellType, FunctionType

import pytest
import torch

from ckptdiff import patches
from ckptdiff.following import engine
from ckptdiff.following.readers.inert import Refused
from tests.following.files import write_files
from tests.following.oracle import Net, elements_from_file, followed, really, same_bits
from tests.following.small import (
    attacks,
    compiled,
    everyday,
    homemade,
    loaders,
    masking,
    merging,
    mixing,
    reading,
    records,
    scripts,
    shaping,
    sharing,
    taking,
    writing,
)

ALL = {**loaders.LOADERS, **attacks.ATTACKS}
for more in (
    reading,
    writing,
    shaping,
    scripts,
    everyday,
    homemade,
    masking,
    merging,
    taking,
    compiled,
    sharing,
    records,
    mixing,
):
    ALL.update((f"{more.__name__.rpartition('.')[2]}: {name}", load) for name, load in more.LOADERS.items())

DOUBTED = frozenset((
    # bytes that no reader has seen
    "reading: truncated", "reading: numbers_read",
    "reading: read_into_out_of_a_zip",
    "reading: sqlite_file_packed",
    *(("reading: hdf5_low_level",) if find_spec("h5py") else ()),
    # numbers that were looked at, and then something was written
    "writing: branch_on_value", "writing: branch_writes_constant",
    "writing: item_to_fill", "writing: list_comprehension", "writing: lr_in_closure",
    "writing: math_of_items", "writing: python_sum", "writing: set_item_float", "writing: storage_items",
    "shaping: orthogonal_parametrized", "shaping: quantised_dynamic",
    # memory that other code than torch's has looked at, or written to
    "writing: numpy_mean", "writing: numpy_nditer",
    "writing: memoryview_read", "writing: memmoved",
    "scripts: vectors_past_the_dispatcher",
    "scripts: vectors_in_the_model", "writing: items_in_an_array", "writing: array_full_of_an_item",
    "writing: items_past_the_dispatcher", "writing: items_past_the_dispatcher_computed",
    "scripts: splitlines", "scripts: numbers_as_array",
    "scripts: json_dumped", "scripts: written_where_it_says",
    "writing: ctypes_floats", "writing: ctypes_written", "shaping: dispatch_subclass", "shaping: nested_padded",
    # tables of the code's own that a file has too: nobody can tell
    "everyday: table_that_the_file_has_too", "everyday: computed_and_compared",
    "everyday: pool_of_processes", "everyday: forked_and_piped", "everyday: told_by_a_hook",
    "everyday: list_that_the_file_has_too", "everyday: array_that_the_file_has_too",
    "homemade: integers_that_the_file_has_too",
    # what was made before, by Python or numpy alone
    "homemade: unpacked_rows", "homemade: over_a_buffer_of_bytes", "homemade: viewed_as_floats",
    "homemade: torch_file_by_hand", "homemade: own_tables_saved",
    # what files say is the code's own
    "masking: masked_fill_by_file", "masking: np_where_file_condition", "masking: where_file_half",
    "masking: where_file_mask_entry", "masking: multiplied_by_file_mask", "merging: ties", "merging: two_four_own",
    "masking: np_vectorize",
    # numbers and bytes that were looked at
    "merging: recarray", "merging: struct_each_field", "merging: hash_then_seed",
    "merging: crc_then_constant", "taking: struct_many_each",
    "taking: np_frompyfunc", "taking: np_matrix",
    # numbers that were looked at, beside elements of files
    *(f"mixing: {name}" for name in mixing.LOADERS if name not in ("nothing_beside_them", "all_of_the_file")),
    "sharing: a_number_of_an_array", "sharing: storage_as_a_list_computed_with",
    "records: records_as_a_list", "records: record_by_record", "records: unpacked_ends_around_constants",
    "records: unpacked_and_sorted", "records: word_vectors_and_their_mean", "records: words_of_the_codes_own",
    "records: words_the_other_way_round", "records: words_and_one_more",
    # what others have written into memory
    "sharing: interface_then_a_constant", "sharing: buffer_then_a_constant", "sharing: buffer_of_the_files_copied",
    "sharing: buffer_of_the_files_assigned", "sharing: read_into_half",
    # what compiled functions draw
    "compiled: drawn_around",
))  # fmt: skip
"""Those about which something cannot be known, and it is said so."""
REFUSED = frozenset(("reading: whole_module", "reading: whole_module_put", "reading: torch_package"))
"""Those that need what only code named in the file could make."""
NOTED = frozenset(("shaping: inference_computed", "shaping: quantised_wrapper", "writing: queued_for_processes"))
"""Those that are noted in each run: what was only noted must be there for what goes past the following."""
SLOW = frozenset(("reading: exported", "reading: torch_package", "shaping: profiled", "shaping: compiled_loaded"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return [write_files(folder / str(seed), seed) / "w.pth" for seed in (1, 3)]


def test_there_are_many_and_few_doubts():
    assert len(ALL) > 500
    assert len(DOUBTED) * 10 < len(ALL)
    assert ALL.keys() >= DOUBTED | REFUSED | SLOW


class Holders:
    """`gc`, which looks once for who holds what is patched: that is most of a run's time."""

    get_referents = staticmethod(gc.get_referents)

    def __init__(self):
        self.found = {}

    def get_referrers(self, *values):
        if any(getattr(value, "__module__", "").startswith("ckptdiff.") for value in values):
            return []  # what was given out is not taken back, and goes with what the test makes
        key = tuple(map(id, values))
        if key not in self.found:
            kinds = (dict, list, tuple, FunctionType, partial, CellType, type)
            holders = [holder for holder in gc.get_referrers(*values) if isinstance(holder, kinds)]
            self.found[key] = values, holders
        return self.found[key][1]


@pytest.fixture(scope="module")
def holders():
    return Holders()


def _cases():
    """Every fourth is carried out, every sixteenth noted too, as with large tensors; the others are for `make long`."""
    for number, name in enumerate(ALL):
        slow = [pytest.mark.slow] if name in SLOW else []
        yield pytest.param(name, False, id=f"{name}-carried out", marks=pytest.mark.long if number % 4 else slow)
        yield pytest.param(
            name,
            True,
            id=f"{name}-noted",
            marks=pytest.mark.long if number % 16 and name not in NOTED else pytest.mark.slow,
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "noted"), list(_cases()))
def test_a_loader_is_answered_as_it_acts(name, noted, files, holders, monkeypatch):
    if not noted:  # what is noted looks for itself
        monkeypatch.setattr(patches, "gc", holders)
    if noted:  # as operations on large tensors are
        monkeypatch.setattr(engine, "SMALL", -1)
    load = ALL[name]
    torch.manual_seed(7)
    model = Net()
    truth = really(load, model, *files)
    if name in REFUSED:
        with pytest.raises(Refused):
            followed(load, model, files[0])
        return
    found, left = followed(load, model, files[0])

    assert found.raised == truth.raised
    masks = elements_from_file(found, left)
    fills = found.fills(left)
    wrong = {}
    for key, mask in masks.items():
        true = truth.from_file[key]
        constant = mask & ~true & (truth.values[key] == 0)  # multiplied by nothing, which is still made of the file
        if not torch.equal(mask & ~constant, true):
            wrong[key] = int(mask.sum()), int(true.sum())
    assert bool(list(found.doubts(fills))) == (name in DOUBTED)
    assert not wrong or name in DOUBTED
    own = {id(tensor) for tensor in (*left.parameters(), *left.buffers())}
    computed = {key for key, value in left.state_dict(keep_vars=True).items() if id(value) not in own}
    for key, value in left.state_dict().items():
        if key in computed:  # by a hook of the model's, now, from memory that is not yet what it stands for
            continue
        assert same_bits(_plain(found.engine.value(value)), _plain(truth.values[key])).all(), key


def _plain(value):
    value = value.dequantize() if value.is_quantized else value
    return value if value.layout is torch.strided else value.to_dense()
