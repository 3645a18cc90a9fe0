# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A random parent with every kind of layer, a member of it, and a plain way to cut that out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import selection, tensors

PARENT = Parent(
    pattern="M-M*-M-",
    hidden=64,
    vocab=64,
    ffn=96,
    mamba_heads=8,
    mamba_head_dim=16,
    mamba_groups=2,
    state=8,
    attention_heads=8,
    kv_heads=2,
    attention_head_dim=8,
    ffn_stripes=4,
)
# every axis is narrower, one layer of each type is dropped or kept, and the blocked axes gather from several blocks
MEMBER = PARENT.uniform(keep=[0, 2, 3, 4, 6], hidden=48, ffn=64, mamba_heads=6, mamba_head_dim=12, attention_heads=4)


def random_tensors(parent: Parent, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    out = {}
    for t in tensors(parent, parent.full):
        value = torch.randn(t.shape, generator=g)
        out[t.hf] = 1 + 0.2 * value if "norm" in t.row.name else value / max(1, t.shape[-1]) ** 0.5
        if t.row.name in ("mamba.a_log", "mamba.dt_bias"):
            out[t.hf] = 0.5 * value
    return out


def cut(parent: Parent, member: Subnet, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The member's tensors, by index sets: slower and plainer than the exporter's slices."""
    out = {}
    for t in tensors(parent, member):
        index = None if t.layer is None else t.layer.index
        value = state[t.row.hf.format(i=index)]
        for dim in range(value.ndim):
            kept = selection(parent, t.row, dim, parent.full, member, index).indices
            value = value.index_select(dim, torch.from_numpy(kept))
        out[t.hf] = value
    return out


def own_parent(parent: Parent, member: Subnet) -> Parent:
    """The shape of which the member is the whole."""
    return replace(
        parent,
        pattern=member.pattern,
        hidden=member.hidden,
        **{axis: width for layer in member.layers for axis, width in layer.widths.items()},
    )


def assert_equal(results: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert results.keys() == wanted.keys()
    for name, value in wanted.items():
        assert results[name].dtype == value.dtype, name
        assert torch.equal(results[name], value), name


def write_words(folder: Path, tokens: int) -> Path:
    """A Hugging Face tokenizer folder of words w0, w1, …"""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(tokens)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "eos_token": "w1", "pad_token": "w2"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
