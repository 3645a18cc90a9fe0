# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Nemotron-H once more, independently: plain numpy in float64, a loop wherever the formula has an index.

It shares no code with the package, reads folders by itself, and cuts members by the one sentence that defines them:
the first k/B of each of B equal blocks. Slow, and meant to be compared with, not used.

Letters: l length, d hidden size, i inner width of Mamba (heads x head_dim), n state, v vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.slicing import strangers

Tensors = dict[str, np.ndarray]
_TYPES = {"M": "mamba", "-": "mlp", "*": "attention", "E": "moe"}


@dataclass
class Model:
    """What a folder says: its config, the widths of each layer, and its tensors in float64."""

    config: dict[str, Any]
    layers: list[dict[str, Any]]  # as in a Subnet's JSON: type, and the widths that the type has
    tensors: Tensors


def read(folder: Path) -> Model:
    """Read `config.json` and the weights of a folder, as `nemo-elastic` or transformers writes them."""
    config = json.loads((folder / "config.json").read_text())
    own = config.get("block_configs") or [{}] * config["num_hidden_layers"]
    layers = [
        {"index": i, "type": _TYPES[symbol], "top_k": (config | own[i]).get("num_experts_per_tok")}
        | strangers.widths_of(config | own[i], symbol)
        for i, symbol in enumerate(config["hybrid_override_pattern"])
    ]
    tensors = {name: values.astype(np.float64) for name, values in read_tensors(folder).items()}
    return Model(config, layers, tensors)


def read_tensors(folder: Path) -> Tensors:
    """Every tensor of a folder by the name that it has in the files; bfloat16 comes as float32."""
    return {name: _values(dtype, data).reshape(shape) for name, (dtype, shape, data) in strangers.read(folder).items()}


def _values(dtype: str, data: bytes) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype])


def cut(
    whole: Model,
    subnet: Mapping[str, Any],
    stripes: int,
    moe_stripes: Mapping[str, int] | None = None,
    kv_stripes: int = 1,
) -> Model:
    """Cut a member out of a parent.

    Args:
        whole: The parent.
        subnet: The member, as in `elastic.json`.
        stripes: Number of blocks of the FFN.
        moe_stripes: Of `experts`, `ffn` and `shared_ffn` of layers with experts.
        kv_stripes: Of key-value heads.
    """
    d = np.arange(subnet["hidden"])
    blocks = {"M": {"heads": whole.config["n_groups"]}, "-": {"ffn": stripes}, "*": {"kv_heads": kv_stripes}}
    blocks["E"] = dict(moe_stripes or {})
    outside = ("backbone.embeddings.weight", "backbone.norm_f.weight", "lm_head.weight")
    tensors = {name: whole.tensors[name][..., d] for name in outside}
    layers = [whole.layers[layer["index"]] | layer for layer in subnet["layers"]]
    for now, small in enumerate(layers):
        large = whole.layers[small["index"]]
        (symbol,) = (symbol for symbol, kind in _TYPES.items() if kind == small["type"])
        kept = strangers.kept_of_layer(whole.config, symbol, large, small, d, blocks[symbol])
        for name, (source, dims) in kept.items():
            values = whole.tensors[f"backbone.layers.{small['index']}.{source}"]
            tensors[f"backbone.layers.{now}.{name}"] = values[np.ix_(*dims)]
    layers = [layer | {"index": i} for i, layer in enumerate(layers)]
    return replace(whole, layers=layers, tensors=tensors)


def logits(model: Model, tokens: np.ndarray) -> np.ndarray:
    """Logits [b, l, v] of tokens [b, l]."""
    return np.stack([_logits(model, sequence) for sequence in tokens])


def _logits(model: Model, tokens_l: np.ndarray) -> np.ndarray:
    eps = model.config["layer_norm_epsilon"]
    mixers = {"mamba": _mamba, "mlp": _mlp, "attention": _attention, "moe": _moe}
    x_ld = model.tensors["backbone.embeddings.weight"][tokens_l]
    for i, layer in enumerate(model.layers):
        prefix = f"backbone.layers.{i}."
        w = {n.removeprefix(prefix): t for n, t in model.tensors.items() if n.startswith(prefix)}
        normed_ld = _rms_norm(x_ld, w["norm.weight"], eps)
        x_ld = x_ld + mixers[layer["type"]](model, layer, w, normed_ld)
    return _rms_norm(x_ld, model.tensors["backbone.norm_f.weight"], eps) @ model.tensors["lm_head.weight"].T


def _rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _mlp(model: Model, layer: Mapping[str, Any], w: Tensors, x_ld: np.ndarray) -> np.ndarray:
    return np.maximum(x_ld @ w["mixer.up_proj.weight"].T, 0) ** 2 @ w["mixer.down_proj.weight"].T


def _moe(model: Model, layer: Mapping[str, Any], w: Tensors, x_ld: np.ndarray) -> np.ndarray:
    out_ld = np.zeros_like(x_ld)
    for t, x_d in enumerate(x_ld):
        scores_e = 1 / (1 + np.exp(-w["mixer.gate.weight"] @ x_d))
        order = np.argsort(-(scores_e + w["mixer.gate.e_score_correction_bias"]), kind="stable")
        best = order[: layer["top_k"]]
        x_i = w["mixer.fc1_latent_proj.weight"] @ x_d if "latent" in layer else x_d
        y_i = np.zeros_like(x_i)
        for e in best:
            h_f = np.maximum(w[f"mixer.experts.{e}.up_proj.weight"] @ x_i, 0) ** 2
            weight = scores_e[e] / scores_e[best].sum() * model.config["routed_scaling_factor"]
            y_i = y_i + weight * (w[f"mixer.experts.{e}.down_proj.weight"] @ h_f)
        y_d = w["mixer.fc2_latent_proj.weight"] @ y_i if "latent" in layer else y_i
        shared_f = np.maximum(w["mixer.shared_experts.up_proj.weight"] @ x_d, 0) ** 2
        out_ld[t] = y_d + w["mixer.shared_experts.down_proj.weight"] @ shared_f
    return out_ld


def _attention(model: Model, layer: Mapping[str, Any], w: Tensors, x_ld: np.ndarray) -> np.ndarray:
    length, size = len(x_ld), model.config["head_dim"]
    q, k, v = (x_ld @ w[f"mixer.{name}_proj.weight"].T for name in "qkv")
    out = np.zeros((length, layer["heads"] * size))
    for h in range(layer["heads"]):
        shared = h // (layer["heads"] // layer["kv_heads"])
        own, other = slice(h * size, (h + 1) * size), slice(shared * size, (shared + 1) * size)
        for t in range(length):
            scores = k[: t + 1, other] @ q[t, own] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            out[t, own] = weights / weights.sum() @ v[: t + 1, other]
    return out @ w["mixer.o_proj.weight"].T


def _mamba(model: Model, layer: Mapping[str, Any], w: Tensors, x_ld: np.ndarray) -> np.ndarray:
    heads, size = layer["heads"], layer["head_dim"]
    groups, states = model.config["n_groups"], model.config["ssm_state_size"]
    inner, bc = heads * size, groups * states
    z_li, xbc_lc, dt_lh = np.split(x_ld @ w["mixer.in_proj.weight"].T, [inner, 2 * inner + 2 * bc], axis=1)
    x_li, b_l, c_l = np.split(_convolved(w, xbc_lc), [inner, inner + bc], axis=1)
    y_li = np.zeros_like(x_li)
    for h, own in _heads(heads, size):
        group = h // (heads // groups)
        part = slice(group * states, (group + 1) * states)
        state_pn = np.zeros((size, states))
        for t in range(len(x_ld)):
            dt = max(np.log1p(np.exp(dt_lh[t, h] + w["mixer.dt_bias"][h])), model.config["time_step_min"])
            decay = math.exp(-math.exp(w["mixer.A_log"][h]) * dt)
            state_pn = decay * state_pn + dt * np.outer(x_li[t, own], b_l[t, part])
            y_li[t, own] = state_pn @ c_l[t, part] + w["mixer.D"][h] * x_li[t, own]
    y_li = y_li * _silu(z_li)
    out_li = np.zeros_like(y_li)
    for group in range(groups):  # the norm is per group, too
        part = slice(group * (inner // groups), (group + 1) * (inner // groups))
        out_li[:, part] = _rms_norm(y_li[:, part], w["mixer.norm.weight"][part], model.config["layer_norm_epsilon"])
    return out_li @ w["mixer.out_proj.weight"].T


def _convolved(w: Tensors, x_lc: np.ndarray) -> np.ndarray:
    kernel_ck = w["mixer.conv1d.weight"][:, 0, :]
    width = kernel_ck.shape[1]
    out = np.zeros_like(x_lc)
    for t in range(len(x_lc)):
        for j in range(width):
            if t - j >= 0:
                out[t] += kernel_ck[:, width - 1 - j] * x_lc[t - j]
    return _silu(out + w["mixer.conv1d.bias"])


def _heads(heads: int, size: int) -> Iterator[tuple[int, slice]]:
    return ((h, slice(h * size, (h + 1) * size)) for h in range(heads))
