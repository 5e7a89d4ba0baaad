"""`from_pretrained` of quantised directories, on a CPU, whatever it makes of them there."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.following.table.rows import Row, in_folder, safetensors, valued, values_like

SITUATIONS = ("good", "missing", "extra", "mismatch", "dtype", "prefix", "shuffled", "empty", "truncated", "absent")
SMALL = {
    "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "tie_word_embeddings": False,
}  # fmt: skip


def llama() -> Any:
    import transformers

    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))


def plain_state(seed: int) -> dict[str, torch.Tensor]:
    return valued(llama(), seed)


def folder_of(quantisation: Mapping[str, Any] | None, config: Callable[[], Any] = lambda: llama().config) -> Any:
    """A directory whose config.json says how its weights are quantised."""

    def save(state: Mapping[str, Any], folder: Path) -> Path:
        made = config()
        made.save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text())
        if quantisation is not None:
            written["quantization_config"] = dict(quantisation)
        (folder / "config.json").write_text(json.dumps(written))
        return in_folder("model.safetensors", safetensors)(state, folder)

    return save


def load_with(config: Callable[[], Any] | None = None, name: str = "AutoModelForCausalLM") -> Callable[[Path], Any]:
    """`from_pretrained`, quantising on the fly where a configuration is given."""

    def load(path: Path) -> Any:
        import transformers

        given = {} if config is None else {"quantization_config": config()}
        model, info = getattr(transformers, name).from_pretrained(path, output_loading_info=True, **given)
        return model, {kind: sorted(map(str, keys)) for kind, keys in info.items()}

    return load


def transformers_config(name: str, *args: Any, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        return getattr(transformers, name)(*args, **options)

    return make


def ao(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torchao.quantization
        import transformers

        return transformers.TorchAoConfig(getattr(torchao.quantization, name)(**options))

    return make


def bnb8() -> Any:
    return transformers_config("BitsAndBytesConfig", load_in_8bit=True)()


def bnb4(kind: str = "nf4", double: bool = False) -> Callable[[], Any]:
    return transformers_config(
        "BitsAndBytesConfig", load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip


@functools.cache
def _saved(config: Callable[[], Any], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors and the configuration of a directory that was quantised on the fly and saved."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        model, _ = load_with(config)(folder_of(None)(plain_state(seed), folder / "a"))
        model.save_pretrained(folder / "b")
        state = {key: value for file in (folder / "b").glob("*.safetensors") for key, value in load_file(file).items()}
        for key, value in state.items():
            if key.endswith("quant_map"):  # the same in every file, so that it could not be told from a constant
                state[key] = value * (1 + seed / 8)
        return state, json.loads((folder / "b" / "config.json").read_text())["quantization_config"]


def saved(name: str, config: Callable[[], Any], *needs: str) -> Row:
    """A directory that the library saved itself."""

    def save(state: Mapping[str, Any], folder: Path) -> Path:
        return folder_of(_saved(config, 1)[1])(state, folder)

    return Row(name, load_with(), save, makes_model=True, state=lambda seed: _saved(config, seed)[0], only=SITUATIONS,
               needs=("transformers", *needs))  # fmt: skip


def on_the_fly(name: str, config: Callable[[], Any], *needs: str) -> Row:
    return Row(name, load_with(config), folder_of(None), makes_model=True, state=plain_state, only=SITUATIONS,
               needs=("transformers", *needs))  # fmt: skip


def by_hand(name: str, quantisation: Mapping[str, Any], state: Callable[[int], Any], *needs: str) -> Row:
    """A directory as other tools write them."""
    return Row(name, load_with(), folder_of(quantisation), makes_model=True, state=state, only=SITUATIONS,
               needs=("transformers", *needs), fixed=("weight_shape",))  # fmt: skip


def linears(state: Mapping[str, torch.Tensor]) -> list[str]:
    return [key for key in state if key.endswith("proj.weight")]


def words(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31 - 1, shape, generator=generator, dtype=torch.int32)


def fp8_state(seed: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = plain_state(seed)
    for key in linears(state):
        weight = state[key]
        state[key] = (weight * 8).to(torch.float8_e4m3fn)
        blocks = [-(-size // 32) for size in weight.shape]
        state[key + "_scale_inv"] = values_like(torch.zeros(blocks), seed, key)
    return state


def int8_state(seed: int) -> dict[str, torch.Tensor]:
    """compressed-tensors, 8 bits, a scale a channel."""
    state = plain_state(seed)
    for key in linears(state):
        weight = state[key]
        state[key] = (torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) * 200 - 100).to(
            torch.int8
        )
        state[key + "_scale"] = values_like(torch.zeros(weight.shape[0], 1), seed, key)
    return state


def packed_state(seed: int) -> dict[str, torch.Tensor]:
    """compressed-tensors, 4 bits packed into 32."""
    state = plain_state(seed)
    for key in linears(state):
        weight = state.pop(key)
        rows, columns = weight.shape
        state[key + "_packed"] = words((rows, columns // 8), seed)
        state[key + "_scale"] = values_like(torch.zeros(rows, columns // 32), seed, key)
        state[key + "_shape"] = torch.tensor([rows, columns])
    return state


def gptq_state(seed: int) -> dict[str, torch.Tensor]:
    state = plain_state(seed)
    for key in linears(state):
        rows, columns = state.pop(key).shape
        base = key.removesuffix("weight")
        state[base + "qweight"] = words((columns // 8, rows), seed)
        state[base + "qzeros"] = words((columns // 32, rows // 8), seed)
        state[base + "scales"] = values_like(torch.zeros(columns // 32, rows, dtype=torch.float16), seed, key)
        state[base + "g_idx"] = torch.arange(columns, dtype=torch.int32) // 32
    return state


def bitnet_state(seed: int) -> dict[str, torch.Tensor]:
    state = plain_state(seed)
    for key in linears(state):
        rows, columns = state[key].shape
        generator = torch.Generator().manual_seed(seed)
        state[key] = torch.randint(0, 170, (rows // 4, columns), generator=generator, dtype=torch.uint8)
        state[key + "_scale"] = values_like(torch.zeros(1), seed, key)
    return state


def oss() -> Any:
    import transformers

    config = transformers.GptOssConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=32,
        intermediate_size=64, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    config.architectures = ["GptOssForCausalLM"]
    return config


def mxfp4_state(seed: int) -> dict[str, torch.Tensor]:
    import transformers

    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = valued(transformers.GptOssForCausalLM(oss()), seed)
    for key in [key for key in state if key.endswith(("gate_up_proj", "down_proj"))]:
        experts, inner, outer = state.pop(key).shape
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.randint(0, 256, (experts, outer, inner // 32, 16), generator=generator, dtype=torch.uint8)
        state[key + "_blocks"] = blocks
        state[key + "_scales"] = torch.randint(110, 130, blocks.shape[:-1], generator=generator, dtype=torch.uint8)
    return state


def weights(bits: int, group: int | None) -> dict[str, Any]:
    strategy = "channel" if group is None else "group"
    kind = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False}
    return {**kind, "strategy": strategy, "group_size": group}


def compressed(layout: str, bits: int, group: int | None) -> dict[str, Any]:
    targets = {"group_0": {"targets": ["Linear"], "weights": weights(bits, group)}}
    return {
        "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
        "config_groups": targets, "ignore": ["lm_head"],
    }  # fmt: skip


FP8 = {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic"}
FOUR = {"bits": 4, "group_size": 32}
BITNET = {"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline"}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn", "router", "lm_head"]}
BNB, AO, CT = "bitsandbytes", "torchao", "compressed_tensors"
ROWS = [
    saved("bitsandbytes 8 bit", bnb8, BNB),
    saved("bitsandbytes nf4", bnb4(), BNB),
    saved("bitsandbytes fp4, doubly", bnb4("fp4", double=True), BNB),
    on_the_fly("bitsandbytes 8 bit, on the fly", bnb8, BNB),
    on_the_fly("bitsandbytes nf4, on the fly", bnb4(), BNB),
    saved("torchao int8 weights", ao("Int8WeightOnlyConfig"), AO),
    saved("torchao int8 dynamic", ao("Int8DynamicActivationInt8WeightConfig"), AO),
    saved("torchao float8 weights", ao("Float8WeightOnlyConfig"), AO),
    on_the_fly("torchao int8 weights, on the fly", ao("Int8WeightOnlyConfig"), AO),
    on_the_fly("quanto int8, on the fly", transformers_config("QuantoConfig", weights="int8"), "optimum.quanto"),
    on_the_fly("quanto int4, on the fly", transformers_config("QuantoConfig", weights="int4"), "optimum.quanto"),
    on_the_fly("quanto float8, on the fly", transformers_config("QuantoConfig", weights="float8"), "optimum.quanto"),
    by_hand("fp8, in blocks", FP8, fp8_state),
    by_hand("fp8, dequantised", {**FP8, "dequantize": True}, fp8_state),
    by_hand("compressed-tensors int8", compressed("int-quantized", 8, None), int8_state, CT),
    by_hand("compressed-tensors packed", compressed("pack-quantized", 4, 32), packed_state, CT),
    by_hand("GPTQ", {"quant_method": "gptq", **FOUR, "desc_act": False, "sym": True}, gptq_state),
    by_hand("AWQ", {"quant_method": "awq", **FOUR, "zero_point": True, "version": "gemm"}, gptq_state),
    by_hand("bitnet", BITNET, bitnet_state),
    Row(
        "MXFP4",
        load_with(),
        folder_of(MXFP4, oss),
        makes_model=True,
        state=mxfp4_state,
        only=SITUATIONS,
        coarse=True,
        needs=("transformers",),
    ),
    by_hand("HQQ", {"quant_method": "hqq", "quant_config": {}}, plain_state),
    by_hand("FBGEMM fp8", {"quant_method": "fbgemm_fp8"}, fp8_state),
]
