# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo checkpoints written by torch alone, in milliseconds: of any shape, also of those that NeMo cannot write."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.distributed.checkpoint import FileSystemWriter, save

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.formats.adapter import to_megatron
from nemo_elastic.formats.hf.config import from_hf_config, to_hf_config
from tests.support.states import stored_as


def settings_of(parent: Parent, member: Subnet) -> dict[str, Any]:
    """What the context has to say of a member."""
    experts = {
        KINDS["moe"].megatron[size]: parent.size(size) for size in ("top_k", "routed_scaling") if parent.has(size)
    }
    return experts | {
        "_target_": "nemo.collections.llm.gpt.model.ssm.NemotronHConfigBase",
        "hybrid_override_pattern": member.pattern,
        "num_layers": len(member.layers),
        "mamba_num_groups": parent.mamba_groups,
        "mamba_state_dim": parent.state,
        "num_attention_heads": parent.attention_heads,
        "num_query_groups": parent.kv_heads,
        "kv_channels": parent.attention_head_dim,
        "share_embeddings_and_output_weights": parent.tied,
        "layernorm_epsilon": parent.norm_eps,
        "gated_linear_unit": False,
        "normalization": "RMSNorm",
        "position_embedding_type": "none",
        "activation_func": {"_call_": False, "_target_": "megatron.core.activations.squared_relu"},
    }


def store(
    folder: Path,
    parent: Parent,
    member: Subnet,
    state: Mapping[str, torch.Tensor],
    *,
    settings: Mapping[str, Any] | None = None,
    elastic: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    without: str | None = None,
    number: Callable[[int], int] = lambda i: i,
) -> Path:
    """Write a checkpoint.

    Args:
        folder: where to.
        parent, member: the shape, uniform or not.
        state: the member's tensors with HF names.
        settings: what its context says otherwise; None takes a setting away.
        elastic: elastic block of the context.
        extra: more tensors or bytes, with the names they have in the file.
        without: pattern of the names to leave out.
        number: number that a layer has in the file.
    """
    tensors = stored_as(parent, member, to_megatron(parent, member, state))
    renumber = lambda name: re.sub(r"layers\.(\d+)", lambda m: f"layers.{number(int(m[1]))}", name)  # noqa: E731
    stored: dict[str, Any] = {"module." + renumber(name): value for name, value in tensors.items()}
    # as TransformerEngine and the optimizer leave them
    stored["module.decoder.layers.0.mixer.in_proj._extra_state/shard_0_1"] = None
    stored["module.output_layer._extra_state"] = torch.zeros(3, dtype=torch.uint8)
    stored["optimizer.state.exp_avg.module.decoder.final_norm.weight"] = torch.zeros(2)
    stored |= extra or {}
    if without is not None:
        kept = {name: value for name, value in stored.items() if not re.search(without, name)}
        assert len(kept) < len(stored)
        stored = kept
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        save(stored, storage_writer=FileSystemWriter(folder / "weights"), no_dist=True)
    (folder / "weights" / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    fields = settings_of(parent, member) | dict(settings or {})
    model = {"_target_": "m.M", "config": {k: v for k, v in fields.items() if v is not None}, "elastic": elastic}
    (folder / "context").mkdir()
    (folder / "context" / "model.yaml").write_text(yaml.safe_dump(model))
    return folder


def add_tokenizer(context: Path, name: str = "words", tokens: int = 60) -> Path:
    """Put a Hugging Face tokenizer of words w0, w1, ... into a context, and let the context name it."""
    folder = context / name
    folder.mkdir()
    added = [{"id": i, "content": f"w{i}"} for i in range(3)]
    vocab = {f"w{i}": i for i in range(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {"vocab": vocab}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w1", "pad_token": {"content": "w2"}}))
    model = yaml.safe_load((context / "model.yaml").read_text())
    model["tokenizer"] = {"_target_": "t.T", "pretrained_model_name": name}
    (context / "model.yaml").write_text(yaml.safe_dump(model))
    return folder


def as_model(parent: Parent, member: Subnet) -> tuple[Parent, Subnet]:
    """A member as a model of its own: what its config.json says of it."""
    return from_hf_config(to_hf_config(parent, member))


def io_json(items: list) -> dict[str, Any]:
    """The other file of a context, with these settings and a class that must not be imported."""
    config = {"type": {"module": "fiddle._src.config", "name": "Config"}, "items": items, "metadata": {"key": "about"}}
    about = {"items": [["Attr(name='fn_or_cls')", {"module": "os", "name": "mkdir"}]]}
    model = {**config, "items": [["Attr(name='config')", {"type": "ref", "key": "c"}]], "paths": ["<root>.model"]}
    return {"objects": {"m": model, "c": config, "about": about}}
