"""A small model of each kind that is asked about, saved once."""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers", minversion="5")


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
