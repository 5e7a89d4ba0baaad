"""What the private names of torch mean, asked of the torch that is installed: one test a name, on every release."""

from __future__ import annotations

import ast
import copy
import importlib.util
import inspect
import io
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import ckptdiff
from ckptdiff import torch_private as private

ROOT = Path(ckptdiff.__file__).parent


class Halved(nn.Module):
    """Has one of everything that a module registers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_parameter("bias", None)
        self.register_buffer("kept", torch.zeros(1))
        self.register_buffer("left_out", torch.zeros(1), persistent=False)
        self.child = nn.Linear(1, 1)
        self.register_module("none", None)


# How a module loads


def test_the_load_method_is_what_load_state_dict_calls_for_each_module() -> None:
    called = []

    class Overriding(nn.Linear):
        pass

    setattr(Overriding, private.LOAD_METHOD, lambda self, state_dict, prefix, *rest: called.append((prefix, len(rest))))
    nn.Sequential(Overriding(1, 1)).load_state_dict({}, strict=False)
    assert called == [("0.", 5)]


def test_the_base_loader_takes_a_modules_own_keys() -> None:
    module, missing, unexpected, errors = nn.Linear(1, 1), [], [], []
    state_dict = {"a.weight": torch.full((1, 1), 7.0), "a.more": 1}
    private.BASE_LOADER(module, state_dict, "a.", {}, True, missing, unexpected, errors)
    assert (module.weight.item(), missing, unexpected, errors) == (7.0, ["a.bias"], ["a.more"], [])


def test_the_base_loader_assigns_where_the_metadata_says_so() -> None:
    module, given = nn.Linear(1, 1), torch.zeros(1, 1)
    local = {"assign_to_params_buffers": True}
    private.BASE_LOADER(module, {"weight": given, "bias": torch.zeros(1)}, "", local, True, [], [], [])
    assert module.weight.data_ptr() == given.data_ptr()


def test_batch_norms_load_with_the_batch_norm_loader() -> None:
    for norm in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        assert issubclass(norm, private.BatchNormBase)
        assert norm._load_from_state_dict is private.BATCH_NORM_LOADER
    missing: list[str] = []
    private.BATCH_NORM_LOADER(nn.BatchNorm1d(1, affine=False), {}, "", {}, True, missing, [], [])
    assert missing == ["running_mean", "running_var"]  # and no counter, which had none before version 2


def test_instance_norms_load_with_the_instance_norm_loader() -> None:
    for norm in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d):
        assert issubclass(norm, private.InstanceNormBase)
        assert norm._load_from_state_dict is private.INSTANCE_NORM_LOADER
    errors: list[str] = []
    private.INSTANCE_NORM_LOADER(nn.InstanceNorm1d(1), {"running_mean": 0}, "", {}, True, [], [], errors)
    assert "Unexpected running stats buffer(s)" in errors[0]


def test_incompatible_keys_are_what_load_state_dict_returns_and_post_hooks_are_given() -> None:
    module, given = nn.Linear(1, 1), []
    module.register_load_state_dict_post_hook(lambda _, keys: given.append(keys))
    returned = module.load_state_dict({"weight": torch.ones(1, 1), "more": 1}, strict=False)
    assert type(returned) is type(given[0]) is private.IncompatibleKeys
    assert private.IncompatibleKeys(["bias"], ["more"]) == returned == (["bias"], ["more"])


def test_a_hook_is_wrapped_in_the_wrapped_hook() -> None:
    def hook(*_: object) -> None:
        return None

    module = nn.Linear(1, 1)
    module._register_load_state_dict_pre_hook(hook, with_module=True)
    (wrapped,) = private.load_pre_hooks(module).values()
    assert type(wrapped) is private.WrappedHook
    assert wrapped.hook is hook
    assert {"hook", "with_module"} <= vars(wrapped).keys()


def test_own_parameters() -> None:
    module = Halved()
    assert private.own_parameters(module) == {"weight": module.weight, "bias": None}
    assert vars(module)[private.PARAMETERS] is private.own_parameters(module)


def test_own_buffers() -> None:
    module = Halved()
    assert private.own_buffers(module) == {"kept": module.kept, "left_out": module.left_out}
    assert vars(module)[private.BUFFERS] is private.own_buffers(module)


def test_children_of() -> None:
    module = Halved()
    assert private.children_of(module) == {"child": module.child, "none": None}
    assert vars(module)[private.CHILDREN] is private.children_of(module)


def test_non_persistent_buffers() -> None:
    module = Halved()
    assert private.non_persistent_buffers(module) == {"left_out"}
    assert vars(module)[private.NON_PERSISTENT] is private.non_persistent_buffers(module)


def test_load_pre_hooks() -> None:
    module = nn.Linear(1, 1)
    assert not private.load_pre_hooks(module)
    register = getattr(module, "register_load_state_dict_pre_hook", module._register_load_state_dict_pre_hook)
    register(lambda *_: None)
    assert len(private.load_pre_hooks(module)) == 1
    assert vars(module)[private.PRE_HOOKS] is private.load_pre_hooks(module)


def test_load_post_hooks() -> None:
    module = nn.Linear(1, 1)
    assert not private.load_post_hooks(module)
    module.register_load_state_dict_post_hook(print)
    assert list(private.load_post_hooks(module).values()) == [print]
    assert vars(module)[private.POST_HOOKS] is private.load_post_hooks(module)


def test_every_other_hook_of_a_module_is_known() -> None:
    hooks = {name for name in vars(nn.Linear(1, 1)) if name.endswith(("hooks", "hooks_with_kwargs", "always_called"))}
    assert hooks == private.OTHER_HOOKS | {private.PRE_HOOKS, private.POST_HOOKS}


def test_the_version_of_a_module_is_in_the_metadata_of_its_state_dict() -> None:
    state_dict = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)).state_dict()
    metadata = private.metadata_of(state_dict)
    assert metadata["0"] == {"version": 2}
    assert private.module_version(nn.BatchNorm1d(1)) == 2
    assert private.module_version(nn.Linear(1, 1)) == metadata["1"]["version"]
    assert private.metadata_of({}) is None


def test_load_state_dict_goes_by_the_metadata_that_was_set() -> None:
    state_dict = OrderedDict(nn.BatchNorm1d(1).state_dict())
    del state_dict["num_batches_tracked"]
    assert nn.BatchNorm1d(1).load_state_dict(state_dict, strict=False).missing_keys == []
    private.set_metadata(state_dict, OrderedDict({"": {"version": 2}}))
    assert nn.BatchNorm1d(1).load_state_dict(state_dict, strict=False).missing_keys == ["num_batches_tracked"]


def test_registration_hooks_are_those_of_all_modules() -> None:
    before = [len(hooks) for hooks in private.registration_hooks()]
    assert len(before) == 3  # of parameters, buffers and modules
    handles = [
        nn.modules.module.register_module_buffer_registration_hook(lambda *_: None),
        nn.modules.module.register_module_module_registration_hook(lambda *_: None),
        nn.modules.module.register_module_parameter_registration_hook(lambda *_: None),
    ]
    try:
        assert [len(hooks) for hooks in private.registration_hooks()] == [count + 1 for count in before]
    finally:
        for handle in handles:
            handle.remove()


def test_the_module_source_has_what_loading_calls() -> None:
    assert inspect.getfile(nn.Module) == private.module_source.__file__
    assert nn.Module.load_state_dict.__globals__ is vars(private.module_source)


def test_the_error_of_a_post_hook_is_torchs() -> None:
    module = nn.Linear(1, 1)
    module.register_load_state_dict_post_hook(lambda *_: 1)
    with pytest.raises(AssertionError) as caught:
        module.load_state_dict(module.state_dict())
    assert str(caught.value) == private.post_hook_error()


def test_the_lists_of_a_failed_call_are_read_out_of_its_traceback() -> None:
    def fail(*_: object) -> None:
        raise KeyError("the hook's own")

    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    module[1].register_load_state_dict_post_hook(fail)
    with pytest.raises(KeyError) as caught:
        module.load_state_dict({"0.weight": torch.ones(2, 2), "0.more": 1, "1.bias": torch.ones(1)})
    missing, unexpected, errors = private.lists_of_failed_call(caught.value)
    assert (missing, unexpected) == (["0.bias", "1.weight"], ["0.more"])
    assert "size mismatch for 0.weight" in errors[0]
    assert private.lists_of_failed_call(ValueError()) == ([], [], [])


# Modes, and what passes them by


class Hearing(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.heard.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_without_torch_function_no_mode_hears_of_a_call() -> None:
    with Hearing() as mode:
        with private.without_torch_function():
            torch.ones(1)
        assert mode.heard == []
        torch.ones(1)
    assert mode.heard == ["ones"]


def test_without_modes_no_dispatch_mode_hears_of_a_call() -> None:
    class Noting(private.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            heard.append(func)
            return func(*args, **(kwargs or {}))

    heard: list[object] = []
    with Noting():
        with private.without_modes():
            torch.ones(1)
        assert not heard
        torch.ones(1)
    assert heard


def test_without_torch_dispatch_no_dispatch_mode_hears_of_an_operator() -> None:
    class Noting(private.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            heard.append(func)
            return func(*args, **(kwargs or {}))

    heard: list[object] = []
    with Noting():
        with private.without_torch_dispatch():
            torch.ones(1)
        assert not heard
        torch.ones(1)
    assert heard


def test_set_grad_enabled_is_what_no_grad_sets() -> None:
    private.set_grad_enabled(False)
    assert not torch.is_grad_enabled()
    private.set_grad_enabled(True)
    assert torch.is_grad_enabled()


def test_storages_that_are_shared_lie_elsewhere() -> None:
    for name in private.SHARERS:
        storage = torch.ones(3).untyped_storage()
        before = storage.data_ptr()
        getattr(storage, name)()
        assert storage.data_ptr() != before


def test_what_is_made_of_other_operators() -> None:
    assert private.is_made_of_others(torch.ops.aten.to.dtype)
    assert private.is_made_of_others(torch.ops.aten.reshape.default)
    assert not private.is_made_of_others(torch.ops.aten._to_copy.default)
    cast = private.taken_apart(torch.ops.aten.to.dtype, (torch.ones(2), torch.int8), {})
    assert torch.equal(cast, torch.ones(2, dtype=torch.int8))


def test_a_negative_view_is_over_the_same_memory() -> None:
    plain = torch.ones(3)
    seen = private.neg_view(plain)
    assert seen.is_neg()
    assert seen.data_ptr() == plain.data_ptr()
    assert torch.equal(seen, -plain)


@pytest.mark.filterwarnings("ignore")
def test_a_collective_is_waited_for() -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch without distributed")
    seen: list = []

    class Noting(private.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func.namespace == "c10d":
                private.wait_for(result[1])
                seen.append(args[0][0].clone())
            return result

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        source, target = torch.ones(300_000), torch.zeros(300_000)
        with Noting():
            distributed.scatter(target, [source], async_op=True)
        assert torch.equal(seen[0], source)
    finally:
        distributed.destroy_process_group()
    if hasattr(torch.ops, "_c10d_functional"):
        private.wait_for(torch.ones(1))


def test_a_schema_says_what_an_operator_writes_to() -> None:
    class Noting(private.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            schemas.append(private.schema_of(func))
            return func(*args, **(kwargs or {}))

    schemas: list = []
    tensor = torch.ones(1)
    with Noting():
        tensor.add_(1)
    (schema,) = schemas
    target = schema.arguments[0]
    assert (target.name, target.alias_info.is_write) == ("self", True)
    assert [result.alias_info.is_write for result in schema.returns] == [True]
    assert schema.arguments[1].alias_info is None


def test_modes_are_active_while_one_is_entered() -> None:
    class Dispatching(private.DispatchMode):
        pass

    assert private.modes_active() is False
    with Hearing():
        assert private.modes_active() is True
    with Dispatching():
        assert private.modes_active() is True
    assert private.modes_active() is False


def test_the_version_counter_counts_what_is_written() -> None:
    tensor = torch.zeros(1)
    before = private.VERSION_COUNTER(tensor)
    tensor.add_(1)
    assert private.VERSION_COUNTER(tensor) == before + 1


def test_a_mode_hears_of_the_version_counter_by_its_getter() -> None:
    heard = []

    class Noting(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            heard.append(func)
            return func(*args, **(kwargs or {}))

    tensor = torch.zeros(1)
    with Noting():
        _ = tensor._version
    assert heard == [private.VERSION_COUNTER]


def test_the_dlpack_exporters_are_those_that_to_dlpack_is_made_of() -> None:
    there = [getattr(holder, name) for holder, name in private.DLPACK_EXPORTERS if hasattr(holder, name)]
    assert torch.utils.dlpack.to_dlpack in there
    assert any(
        export.__module__ != "torch.utils.dlpack" for export in there
    )  # torch._C's own, by which __dlpack__ goes
    for export in there:
        assert "dltensor" in repr(export(torch.zeros(1)))


def test_tensor_makers_make_tensors_on_the_default_device() -> None:
    makers = private.tensor_makers()
    assert {torch.empty, torch.ones, torch.tensor, torch.arange, torch.randn} <= set(makers)
    assert torch.add not in makers


def test_tables_of_functions_are_made_once() -> None:
    for table in private.tables_of_functions():
        assert table() is table()
        assert table.cache_info().currsize == 1


def test_the_chosen_device_is_what_set_default_device_was_given() -> None:
    assert private.chosen_device() is None
    torch.set_default_device("meta")
    try:
        assert private.chosen_device() == torch.device("meta")
    finally:
        torch.set_default_device(None)
    assert private.chosen_device() is None
    with torch.device("meta"):  # a mode of its own
        assert private.chosen_device() is None


def test_dispatch_modes_are_made_in_a_module_of_that_name() -> None:
    assert private.DispatchMode.__module__ == private.DISPATCH_MODES
    assert private.without_modes.__module__ == private.DISPATCH_MODES


@pytest.mark.parametrize("package", private.COMPUTING)
def test_the_computing_packages_exist(package: str) -> None:
    assert importlib.util.find_spec(package) is not None


def test_tensors_that_torch_traces_with_are_of_the_package() -> None:
    from torch._subclasses import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    assert FakeTensor.__module__.startswith(private.TRACED_TENSORS)
    assert FunctionalTensor.__module__.startswith(private.TRACED_TENSORS)


def test_pickling_and_copying_go_through_the_methods_of_these_names() -> None:
    called: set[str] = set()

    def profile(frame, event, _):
        if event == "call" and frame.f_globals.get("__name__") == "torch._tensor":
            called.add(frame.f_code.co_name)

    tensor = torch.zeros(1)
    sys.setprofile(profile)
    try:
        pickle.dumps(tensor)
        copy.copy(tensor)
    finally:
        sys.setprofile(None)
    assert set(private.PICKLING) <= called


# Tensors and storages


def test_the_reference_count_is_that_by_which_tensors_are_swapped() -> None:
    tensor = torch.zeros(1)
    assert private.reference_count(tensor) == 1
    views = tensor[:], tensor[:]
    assert private.reference_count(tensor) == 3
    with pytest.raises(RuntimeError, match="use_count"):
        torch.utils.swap_tensors(tensor, torch.ones(1))
    del views
    torch.utils.swap_tensors(tensor, torch.ones(1))
    assert tensor.item() == 1


@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning")
def test_empty_affine_quantized() -> None:
    made = private.empty_affine_quantized((2,), scale=0.5, zero_point=3, dtype=torch.quint8, device=torch.device("cpu"))
    assert (made.shape, made.dtype, made.q_scale(), made.q_zero_point()) == ((2,), torch.quint8, 0.5, 3)


@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning")
def test_empty_per_channel_affine_quantized() -> None:
    made = private.empty_per_channel_affine_quantized(
        (2, 3), scales=torch.ones(2), zero_points=torch.zeros(2, dtype=torch.long), axis=0, dtype=torch.qint8
    )
    assert (made.qscheme(), made.q_per_channel_axis()) == (torch.per_channel_affine, 0)


def test_a_storage_has_one_identity_whichever_object_stands_for_it() -> None:
    tensor = torch.zeros(2)
    one, another = tensor[:1].untyped_storage(), tensor[1:].untyped_storage()
    assert private.storage_identity(one) == private.storage_identity(another)
    assert private.storage_identity(one) != private.storage_identity(torch.zeros(2).untyped_storage())


def test_the_parts_of_a_typed_storage() -> None:
    untyped = torch.zeros(3, dtype=torch.float64).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=untyped, dtype=torch.float64, _internal=True)
    assert private.typed_storage_parts(storage) == (untyped, "DoubleStorage", 3)


@pytest.mark.parametrize(("dtype", "typed"), [(torch.float32, True), (torch.float8_e5m2, False)])
def test_the_rebuilder_is_what_torch_names_in_a_pickle(dtype: torch.dtype, typed: bool) -> None:
    rebuild = private.tensor_rebuilder(typed=typed)
    buffer = io.BytesIO()
    torch.save(torch.zeros(2, dtype=dtype), buffer)
    assert rebuild.__name__.encode() in buffer.getvalue()
    untyped = torch.ones(2).to(dtype).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype if typed else torch.uint8, _internal=True)
    made = rebuild(storage, 0, (2,), (1,), False, {}, *(() if typed else (dtype,)))
    assert made.dtype == dtype
    assert made.float().tolist() == [1, 1]


# Files


def test_the_file_reader_reads_records(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pth")
    reader = getattr(*private.FILE_READER)(str(tmp_path / "weights.pth"))
    made = reader.get_storage_from_record("data/0", 8, torch.uint8)
    assert made.untyped_storage().nbytes() == 8


def test_torchscript_knows_functions_by_identity() -> None:
    assert private.script_builtins()[id(torch.tensor)] == "aten::tensor"


def test_a_part_of_a_file_is_what_a_distributed_checkpoint_is_read_by(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo

    (tmp_path / "all").write_bytes(b"0123456789")
    with (tmp_path / "all").open("rb") as file:
        view = FileSystemReader(tmp_path)._slice_file(file, _StorageInfo("all", 3, 4))
        assert private.part_of_file(view) == (str(tmp_path / "all"), 3, 4)
        assert view.read(4) == b"3456"
        assert private.part_of_file(file) is None


@pytest.mark.filterwarnings("ignore")
def test_the_metadata_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"a": torch.ones(2, 3), "b": 1}, checkpoint_id=tmp_path / "c")
    named = set()

    class Noting(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            named.add((module, name))
            return super().find_class(module, name)

    with (tmp_path / "c" / ".metadata").open("rb") as file:
        Noting(file).load()
    assert ("torch.distributed.checkpoint.metadata", "Metadata") in named
    assert named <= private.distributed_classes().keys()


def test_the_allowed_globals_are_what_a_weights_only_load_finds() -> None:
    class Added:
        pass

    allowed = private.allowed_globals()
    assert allowed["torch._utils._rebuild_tensor_v2"] is private.tensor_rebuilder(typed=True)
    assert allowed["collections.OrderedDict"] is OrderedDict
    torch.serialization.add_safe_globals([Added])
    try:
        assert Added not in private.allowed_globals().values()
    finally:
        torch.serialization.clear_safe_globals()


# torch.distributed


def test_the_checkpoint_wrapper_is_in_the_package_of_that_name() -> None:
    wrapper = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    assert wrapper.__name__.startswith(private.CHECKPOINT_WRAPPERS)
    assert hasattr(wrapper, "checkpoint_wrapper")


def test_a_group_of_one_meets_in_a_store_of_its_own() -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=private.store_of_one(), rank=0, world_size=1)
    try:
        tensor = torch.ones(2)
        dist.all_reduce(tensor)
        assert tensor.tolist() == [1, 1]
    finally:
        dist.destroy_process_group()


def test_the_process_groups_are_those_that_were_made(tmp_path: Path) -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("a torch without distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        (group,) = private.process_groups()
        assert (group.size(), distributed.get_backend(group)) == (1, "gloo")
    finally:
        distributed.destroy_process_group()


# That there are no others


def test_no_other_module_names_anything_private_of_torchs() -> None:
    registered = {private.PARAMETERS, private.BUFFERS, private.CHILDREN, private.NON_PERSISTENT, private.PRE_HOOKS,
                  private.POST_HOOKS, private.LOAD_METHOD, "_metadata", "_version", "_use_count", "_cdata", "_schema",
                  "_world", "_untyped_storage"}  # fmt: skip
    strays = []
    for path in ROOT.rglob("*.py"):
        if path.name == "torch_private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
                dotted = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                dotted = [alias.name for alias in node.names if alias.name.partition(".")[0] == "torch"]
            elif isinstance(node, ast.Attribute):
                text = ast.unparse(node)
                own = text.startswith(("self.", "cls.")) and text.count(".") == 1
                dotted = [text] if text.startswith("torch.") or (node.attr in registered and not own) else []
            else:
                continue
            strays += [
                f"{path.relative_to(ROOT)}: {name}"
                for name in dotted
                if any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
            ]
    assert strays == []


def test_each_public_name_is_tried_here() -> None:
    tried = Path(__file__).read_text("utf-8")
    assert [name for name in private.__all__ if f"private.{name}" not in tried] == []
    assert {name for name in vars(private) if not name.startswith("_")} >= set(private.__all__)
