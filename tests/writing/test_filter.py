"""What comes out loads into the model it was filtered for: torch itself is asked, every time."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from ckptdiff.checkpoint import read
from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.errors import CheckpointError, ModelError, UsageError
from ckptdiff.model.build import build
from ckptdiff.model.extract import extract
from ckptdiff.model.snapshot import dumps
from ckptdiff.writing.adaptations import parse_adaptation
from ckptdiff.writing.execute import execute, output_of, prepare
from ckptdiff.writing.initial_values import seeded
from ckptdiff.writing.planning import plan_filter, plan_rewrite

from .support import computed, load, same

OUTPUTS = ["out.safetensors", "out.pth", "out/"]


class Net(nn.Module):
    def __init__(self, classes=10, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)


def save(model, path, **extra):
    torch.save({**model.state_dict(), **extra}, path)
    return read(path)


def filtered(checkpoint, model, out, *, adapt=(), initial=None, shared=None, fill_missing=False, **options):
    output = output_of(str(out))
    plan = plan_filter(
        plan_rewrite(checkpoint, format=output.format, **options),
        extract(model),
        adapt=[parse_adaptation(text) for text in adapt],
        fill_missing=fill_missing,
    )
    return execute(prepare(plan, output, shared=shared), initial=initial, fsync=False, verify_bytes=True)


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_mismatched_head_is_stripped(tmp_path, out):
    given = Net(1000)
    checkpoint = save(given, tmp_path / "in.pth", junk=torch.ones(3), epoch=7)
    written = filtered(checkpoint, Net(10), f"{tmp_path}/{out}")
    assert {drop.key: (drop.why, drop.detail) for drop in written.job.plan.dropped} == {
        "fc.weight": ("size mismatch", "[1000, 8] in the checkpoint, [10, 8] in the model"),
        "fc.bias": ("size mismatch", "[1000] in the checkpoint, [10] in the model"),
        "junk": ("unexpected: the model has no such key", ""),
        "epoch": ("unexpected: the model has no such key" if out == "out.pth"
                  else "no tensor but int, which safetensors cannot hold", ""),
    }  # fmt: skip
    state = load(tmp_path / out)
    result = Net(10).load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    assert all(same(value, given.state_dict()[key]) for key, value in state.items())
    assert written.outcome.problem_keys("missing") == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("out", OUTPUTS)
def test_what_is_missing_is_filled_with_the_models_own_values(tmp_path, out):
    checkpoint = save(Net(1000), tmp_path / "in.pth")
    model = Net(10)
    before = torch.random.get_rng_state()
    written = filtered(checkpoint, model, f"{tmp_path}/{out}", fill_missing=True, initial=seeded(Net, 5))
    assert torch.equal(before, torch.random.get_rng_state())
    assert written.job.plan.filled == ("fc.weight", "fc.bias")
    state = load(tmp_path / out)
    Net(10).load_state_dict(state, strict=True)
    torch.manual_seed(5)
    wanted = Net(10)
    assert same(state["fc.weight"], wanted.fc.weight)
    assert same(state["fc.bias"], wanted.fc.bias)


def test_filling_needs_a_model(tmp_path):
    checkpoint = save(Net(1000), tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match="no model to take them from"):
        filtered(checkpoint, Net(10), tmp_path / "out.pth", fill_missing=True)
    with torch.device("meta"):
        empty = Net(10)
    with pytest.raises(ModelError, match=r"no initial value for fc\.weight"):
        filtered(checkpoint, Net(10), tmp_path / "out.pth", fill_missing=True, initial=seeded(lambda: empty, 0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_missing_tied_key_is_filled_with_its_twin(tmp_path, out):
    given = Tied()
    torch.save({"embed.weight": given.embed.weight.detach()}, tmp_path / "in.pth")
    written = filtered(read(tmp_path / "in.pth"), Tied(), f"{tmp_path}/{out}", fill_missing=True)
    assert written.job.plan.filled == ()
    model = Tied()
    state = load(tmp_path / out)
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.embed.weight, given.embed.weight)
    if out == "out.pth":
        assert state["out.weight"].data_ptr() == state["embed.weight"].data_ptr()


@pytest.mark.parametrize("out", OUTPUTS)
def test_both_tied_keys_are_filled_with_one_value(tmp_path, out):
    class More(Tied):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(3)

    torch.save({"norm.weight": torch.ones(3)}, tmp_path / "in.pth")
    filtered(read(tmp_path / "in.pth"), More(), f"{tmp_path}/{out}", fill_missing=True, initial=seeded(More, 1))
    More().load_state_dict(load(tmp_path / out), strict=True)


def test_ties_of_the_file_that_the_model_does_not_have_are_written_apart(tmp_path):
    class Untied(Tied):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 5, bias=False)

    torch.save(Tied().state_dict(), tmp_path / "in.pth")
    filtered(read(tmp_path / "in.pth"), Untied(), tmp_path / "apart.safetensors")
    Untied().load_state_dict(load(tmp_path / "apart.safetensors"), strict=True)
    written = filtered(read(tmp_path / "in.pth"), Tied(), tmp_path / "tied.safetensors")
    assert written.job.layout.aliases == ()
    Tied().load_state_dict(load(tmp_path / "tied.safetensors"), strict=True)
    written = filtered(read(tmp_path / "in.pth"), Tied(), tmp_path / "once.safetensors", shared="drop")
    assert written.job.layout.aliases == (("out.weight", "embed.weight"),)
    with pytest.raises(UsageError):
        output_of("x.zip")


class Renaming(nn.Module):
    """Takes keys of an earlier layout: one renamed, one split in three."""

    def __init__(self, width=4):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in "qkv")
        self.proj = nn.Linear(width, 2)
        self._register_load_state_dict_pre_hook(self._upgrade, with_module=True)

    @staticmethod
    def _upgrade(module, state, prefix, *_):
        if f"{prefix}qkv" in state:
            parts = state.pop(f"{prefix}qkv").chunk(3)
            state.update({f"{prefix}{name}.weight": part for name, part in zip("qkv", parts, strict=True)})
        for key in [key for key in state if key.startswith(f"{prefix}old_proj.")]:
            state[key.replace("old_proj", "proj")] = state.pop(key)


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("nested", [False, True])
def test_keys_that_hooks_rename_keep_the_names_of_the_checkpoint(tmp_path, out, nested):
    make = (lambda width=4: nn.Sequential(Renaming(width))) if nested else Renaming
    prefix = "0." if nested else ""
    old = {
        f"{prefix}qkv": torch.randn(12, 4),
        f"{prefix}old_proj.weight": torch.randn(2, 4),
        f"{prefix}old_proj.bias": torch.randn(3),
        f"{prefix}x": torch.ones(1),
    }
    torch.save(old, tmp_path / "in.pth")
    written = filtered(read(tmp_path / "in.pth"), make(), f"{tmp_path}/{out}")
    state = load(tmp_path / out)
    assert set(state) == {f"{prefix}qkv", f"{prefix}old_proj.weight"}
    assert {drop.key for drop in written.job.plan.dropped} == {f"{prefix}old_proj.bias", f"{prefix}x"}
    result = make().load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == ([f"{prefix}proj.bias"], [])


def test_what_a_hook_splits_into_misfits_is_dropped(tmp_path):
    torch.save({"qkv": torch.randn(12, 4), "old_proj.bias": torch.randn(2)}, tmp_path / "in.pth")
    written = filtered(read(tmp_path / "in.pth"), Renaming(8), tmp_path / "out.pth")
    assert list(load(tmp_path / "out.pth")) == ["old_proj.bias"]
    (drop,) = written.job.plan.dropped
    assert drop == type(drop)("qkv", "the code of the model makes of it what does not load")


def test_ignored_keys_and_values_that_are_no_tensors_go(tmp_path):
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.downsample = None
            self.register_module("skip", None)

    state = {**Part().state_dict(), "a.weight": 3, "skip.weight": torch.ones(2)}
    torch.save(state, tmp_path / "in.pth")
    written = filtered(read(tmp_path / "in.pth"), Part(), tmp_path / "out.pth")
    assert {drop.key: drop.why for drop in written.job.plan.dropped} == {
        "a.weight": "no tensor but int",
        "skip.weight": "ignored: torch drops what is below a child registered as None",
    }
    Part().load_state_dict(load(tmp_path / "out.pth"), strict=False)


def test_nothing_that_fits_is_an_error(tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match=r"Nothing in .* loads into .*Net"):
        filtered(read(tmp_path / "in.pth"), Net(), tmp_path / "out.pth")


def test_a_prefix_that_alone_is_in_the_way_is_said(tmp_path):
    torch.save({f"_orig_mod.module.{key}": value for key, value in Net().state_dict().items()}, tmp_path / "in.pth")
    with pytest.raises(CheckpointError) as error:
        filtered(read(tmp_path / "in.pth"), Net(), tmp_path / "out.pth")
    number = len(Net().state_dict())
    assert error.value.hint == f"With strip_prefix='_orig_mod.module' {number} keys have the names of the model's."


def test_running_stats_that_old_instance_norms_refuse(tmp_path):
    torch.save(
        {"0.running_mean": torch.ones(2), "0.running_var": torch.ones(2), "1.weight": torch.ones(2, 2)},
        tmp_path / "in.pth",
    )
    model = nn.Sequential(nn.InstanceNorm1d(2), nn.Linear(2, 2))
    filtered(read(tmp_path / "in.pth"), model, tmp_path / "out.pth")
    assert list(load(tmp_path / "out.pth")) == ["1.weight"]


# Adaptation

HEAD = ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("out", ["out.safetensors", "out.pth"])
def test_rows_are_sliced_and_padded(tmp_path, out):
    given = Net(20)
    checkpoint = save(given, tmp_path / "in.pth")
    written = filtered(checkpoint, Net(7), tmp_path / out, adapt=["fc.*=slice"])
    assert not computed(written.job.layout)
    assert written.job.plan.adapted == (
        ("fc.weight", "sliced to the first 7 of 20 in dimension 0"),
        ("fc.bias", "sliced to the first 7 of 20 in dimension 0"),
    )
    state = load(tmp_path / out)
    Net(7).load_state_dict(state)
    assert same(state["fc.weight"], given.fc.weight[:7])
    (tmp_path / out).unlink()
    written = filtered(checkpoint, Net(23), tmp_path / out, adapt=["fc.*=pad"])
    assert written.job.plan.adapted[0] == ("fc.weight", "padded with zeros: 3 behind the 20 of dimension 0")
    state = load(tmp_path / out)
    Net(23).load_state_dict(state)
    assert same(state["fc.weight"], torch.cat([given.fc.weight, torch.zeros(3, 8)]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_input_channels_are_repeated_so_that_the_output_stays(tmp_path, channels, dtype):
    given = Net().to(dtype)
    checkpoint = save(given, tmp_path / "in.pth")
    filtered(checkpoint, Net(channels=channels).to(dtype), tmp_path / "out.pth", adapt=["conv.weight=repeat-channels"])
    found = load(tmp_path / "out.pth")["conv.weight"]
    weight = given.conv.weight.detach().float()
    repeated = weight.repeat(1, 5, 1, 1)[:, :channels] * (3 / channels)
    wanted = weight.sum(1, keepdim=True) if channels == 1 else repeated
    assert same(found, given.conv.weight if channels == 3 else wanted.to(dtype))


@pytest.mark.parametrize(
    ("old", "new", "prefix"),
    [((1, 197, 8), (1, 577, 8), 1), ((50, 8), (26, 8), 1), ((1, 196, 8), (1, 49, 8), 0), ((1, 198, 8), (1, 27, 8), 2)],
)
def test_position_embeddings_are_interpolated(tmp_path, old, new, prefix):
    class Positions(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.pos = nn.Parameter(torch.randn(shape))
            self.fc = nn.Linear(1, 1)

    given = Positions(old)
    checkpoint = save(given, tmp_path / "in.pth")
    written = filtered(checkpoint, Positions(new), tmp_path / "out.pth", adapt=["pos=interpolate"])
    found = load(tmp_path / "out.pth")["pos"].reshape(new[-2:])
    before = given.pos.detach().reshape(old[-2:])
    side, wanted_side = (int((size - prefix) ** 0.5) for size in (old[-2], new[-2]))
    grid = before[prefix:].T.reshape(1, 8, side, side)
    grid = nn.functional.interpolate(grid, (wanted_side, wanted_side), mode="bicubic", antialias=True)
    assert torch.equal(found[:prefix], before[:prefix])
    assert torch.allclose(found[prefix:], grid.reshape(8, -1).T, atol=1e-6)
    ((_, how),) = written.job.plan.adapted
    assert how.startswith(f"interpolated bicubically from {side}x{side} to {wanted_side}x{wanted_side}")


@pytest.mark.zoo
def test_interpolation_and_channels_are_timms(tmp_path):
    import timm
    from timm.layers import resample_abs_pos_embed
    from timm.models import adapt_input_conv

    given = timm.create_model("vit_tiny_patch16_224")
    wanted = timm.create_model("vit_tiny_patch16_384", in_chans=1)
    checkpoint = save(given, tmp_path / "in.pth")
    adapt = ["pos_embed=interpolate", "patch_embed.proj.weight=repeat-channels"]
    filtered(checkpoint, wanted, tmp_path / "out.pth", adapt=adapt)
    state = load(tmp_path / "out.pth")
    wanted.load_state_dict(state)
    assert torch.equal(state["pos_embed"], resample_abs_pos_embed(given.pos_embed.detach(), [24, 24]))
    assert torch.equal(state["patch_embed.proj.weight"], adapt_input_conv(1, given.patch_embed.proj.weight.detach()))


def test_windowed_position_embeddings_are_interpolated(tmp_path):
    make = lambda *shape: nn.ParameterDict({"pos": nn.Parameter(torch.randn(shape))})  # noqa: E731
    given = make(1, 8, 6, 4)
    checkpoint = save(given, tmp_path / "in.pth")
    filtered(checkpoint, make(1, 16, 12, 4), tmp_path / "out.pth", adapt=["pos=interpolate"])
    wanted = nn.functional.interpolate(
        given["pos"].detach().permute(0, 3, 1, 2), (16, 12), mode="bicubic", antialias=True
    )
    assert torch.allclose(load(tmp_path / "out.pth")["pos"], wanted.permute(0, 2, 3, 1), atol=1e-6)


def test_a_convolution_of_one_pixel_and_a_linear_layer(tmp_path):
    given = nn.Sequential(nn.Conv2d(4, 6, 1))
    checkpoint = save(given, tmp_path / "in.pth")
    written = filtered(checkpoint, nn.Sequential(nn.Linear(4, 6)), tmp_path / "out.pth", adapt=["*=squeeze"])
    assert not computed(written.job.layout)
    model = nn.Sequential(nn.Linear(4, 6))
    model.load_state_dict(load(tmp_path / "out.pth"))
    assert torch.equal(model[0].weight, given[0].weight[:, :, 0, 0])
    checkpoint = save(model, tmp_path / "linear.pth")
    filtered(checkpoint, given, tmp_path / "back.safetensors", adapt=["*=squeeze"])
    given.load_state_dict(load(tmp_path / "back.safetensors"))


@pytest.mark.parametrize("out", ["out.safetensors", "out.pth"])
def test_matrices_are_transposed_square_ones_too(tmp_path, out):
    given = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(5, 5)})
    state = {key: value.t().contiguous() if value.dim() == 2 else value for key, value in given.state_dict().items()}
    torch.save(state, tmp_path / "in.pth")
    filtered(read(tmp_path / "in.pth"), given, tmp_path / out, adapt=["*.weight=transpose"])
    found = load(tmp_path / out)
    assert all(same(found[key], value) for key, value in given.state_dict().items())


@pytest.mark.parametrize(
    ("adapt", "model", "what"),
    [
        ("fc.weight=slice", Net(30), "slicing only makes smaller"),
        ("fc.*=pad", Net(10), "padding only makes larger"),
        ("fc.weight=repeat-channels", Net(10), "second dimension"),
        ("fc.weight=interpolate", Net(10), "no number of prefix tokens"),
        ("fc.weight=squeeze", Net(10), "dimensions of size 1"),
        ("fc.weight=transpose", Net(10), "does not give the model's shape"),
        ("conv.weight=interpolate", Net(channels=4), "position embeddings are"),
        ("nothing.*=slice", Net(10), "matches no key"),
    ],
)  # fmt: skip
def test_impossible_adaptations_are_refused(tmp_path, adapt, model, what):
    checkpoint = save(Net(20), tmp_path / "in.pth")
    with pytest.raises(UsageError, match=what):
        filtered(checkpoint, model, tmp_path / "out.pth", adapt=[adapt])
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize("text", ["fc.weight", "=slice", "fc.*=", "fc.*=shrink", ""])
def test_what_is_no_adaptation(text):
    with pytest.raises(UsageError, match="KEY_GLOB=HOW"):
        parse_adaptation(text)


def test_adapted_and_converted_at_once(tmp_path):
    given = Net(20)
    filtered(
        save(given, tmp_path / "in.pth"), Net(7), tmp_path / "out.safetensors", adapt=["fc.*=slice"], dtype="bfloat16"
    )
    state = load(tmp_path / "out.safetensors")
    assert same(state["fc.weight"], given.fc.weight[:7].bfloat16())
    assert state["bn.num_batches_tracked"].dtype == torch.int64


def test_a_snapshot_needs_no_torch(tmp_path):
    checkpoint = save(Net(1000), tmp_path / "in.pth")
    (tmp_path / "net.json").write_text(dumps(extract(Net(10))))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ckptdiff.checkpoint import read\n"
        "from ckptdiff.model.snapshot import loads\n"
        "from ckptdiff.writing.execute import execute, output_of, prepare\n"
        "from ckptdiff.writing.planning import plan_filter, plan_rewrite\n"
        "output = output_of(sys.argv[3])\n"
        "tree = loads(Path(sys.argv[2]).read_text(), '')\n"
        "plan = plan_filter(plan_rewrite(read(sys.argv[1]), format=output.format), tree)\n"
        "execute(prepare(plan, output))\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    for out in ("out.pth", "out.safetensors"):
        subprocess.run([sys.executable, "-c", code, checkpoint.path, tmp_path / "net.json", tmp_path / out], check=True)
        assert Net(10).load_state_dict(load(tmp_path / out), strict=False).missing_keys == HEAD


def test_a_model_given_by_reference_is_built_for_its_values(tmp_path):
    (tmp_path / "some_net.py").write_text(
        "import torch\n"
        "class Some(torch.nn.Module):\n"
        "    def __init__(self, classes=10):\n"
        "        super().__init__()\n"
        "        self.body = torch.nn.Linear(300, 300)\n"
        "        self.head = torch.nn.Linear(300, classes)\n"
        "        torch.nn.init.normal_(self.head.weight, std=7.0)\n"
    )
    reference = f"{tmp_path}/some_net.py:Some"
    given = build(reference, {"classes": 5}, with_values=True).module
    checkpoint = save(given, tmp_path / "in.pth")
    model = build(reference).module
    make = lambda: build(reference, with_values=True).module  # noqa: E731
    filtered(checkpoint, model, tmp_path / "out.pth", fill_missing=True, initial=seeded(make, 3))
    torch.manual_seed(3)
    wanted = make().state_dict()
    state = load(tmp_path / "out.pth")
    assert same(state["head.weight"], wanted["head.weight"])
    assert same(state["body.weight"], given.state_dict()["body.weight"])


def test_an_empty_vector_for_a_scalar_goes_alone(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    state = {**model.state_dict(), "0.num_batches_tracked": torch.empty(0, dtype=torch.long)}
    with pytest.raises((IndexError, RuntimeError)):
        model.load_state_dict(state)
    torch.save(state, tmp_path / "in.pth")
    written = filtered(read(tmp_path / "in.pth"), model, tmp_path / "out.pth")
    assert [drop.key for drop in written.job.plan.dropped] == ["0.num_batches_tracked"]
    assert "1.weight" in load(tmp_path / "out.pth")


def test_a_hook_that_fails_whatever_it_is_given_is_an_error(tmp_path):
    class Failing(Net):
        def __init__(self):
            super().__init__()
            self._register_load_state_dict_pre_hook(lambda *_: 1 / 0)

    checkpoint = save(Net(), tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match="No choice of keys") as caught:
        filtered(checkpoint, Failing(), tmp_path / "out.pth")
    assert caught.value.detail.startswith("ZeroDivisionError")


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_state_dict_in_memory(tmp_path, out):
    given = Net(1000)
    checkpoint = checkpoint_of({**given.state_dict(), "view": torch.ones(2, 3).t()})
    filtered(checkpoint, Net(10), f"{tmp_path}/{out}")
    state = load(tmp_path / out)
    assert all(same(state[key], value) for key, value in given.state_dict().items() if not key.startswith("fc."))
