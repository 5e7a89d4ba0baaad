"""A Llama of 1.1 billion parameters (TinyLlama's shape), as people write it, for the benchmarks to build."""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY, WIDTH, HIDDEN, LAYERS, HEADS, KEY_HEADS = 32000, 2048, 5632, 22, 32, 4


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        head = WIDTH // HEADS
        self.q_proj = nn.Linear(WIDTH, HEADS * head, bias=False)
        self.k_proj = nn.Linear(WIDTH, KEY_HEADS * head, bias=False)
        self.v_proj = nn.Linear(WIDTH, KEY_HEADS * head, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.mlp = MLP()
        self.input_layernorm = RMSNorm(WIDTH)
        self.post_attention_layernorm = RMSNorm(WIDTH)


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RMSNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)


def model() -> Llama:
    """The model in bfloat16, as it is saved."""
    return Llama().to(torch.bfloat16)
