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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.slicing import strangers

Tensors = dict[str, np.ndarray]
_TYPES = {"M": "mamba", "-": "mlp", "*": "attention", "E": "moe"}


@dataclass
class Model:
    """What a folder says: sizes that all layers share, the widths of each layer, and its tensors in float64."""

    hidden: int
    eps: float
    groups: int
    state: int
    attention_head_dim: int
    least_dt: float
    layers: list[dict[str, Any]]  # as in a Subnet's JSON: type, and the widths that the type has
    tensors: Tensors
    top_k: int = 0
    scaling: float = 1.0


def read(folder: Path) -> Model:
    """Read `config.json` and the weights of a folder, as `nemo-elastic` or transformers writes them."""
    config = json.loads((folder / "config.json").read_text())
    widths = {
        "mamba": {"heads": "mamba_num_heads", "head_dim": "mamba_head_dim"},
        "mlp": {"ffn": "intermediate_size"},
        "attention": {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads"},
        "moe": {
            "experts": "n_routed_experts",
            "ffn": "moe_intermediate_size",
            "shared_ffn": "moe_shared_expert_intermediate_size",
        }
        | ({"latent": "moe_latent_size"} if config.get("moe_latent_size") else {}),
    }
    own = config.get("block_configs") or [{}] * config["num_hidden_layers"]
    layers = []
    for i, symbol in enumerate(config["hybrid_override_pattern"]):
        kind = _TYPES[symbol]
        layers.append(
            {"index": i, "type": kind} | {ours: (config | own[i])[theirs] for ours, theirs in widths[kind].items()}
        )
    return Model(
        hidden=config["hidden_size"],
        eps=config["layer_norm_epsilon"],
        groups=config["n_groups"],
        state=config["ssm_state_size"],
        attention_head_dim=config["head_dim"],
        least_dt=config["time_step_min"],
        layers=layers,
        tensors={name: values.astype(np.float64) for name, values in read_tensors(folder).items()},
        top_k=config.get("num_experts_per_tok", 0),
        scaling=config.get("routed_scaling_factor", 1.0),
    )


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
    rows = list(range(subnet["hidden"]))
    tensors = {
        "backbone.embeddings.weight": whole.tensors["backbone.embeddings.weight"][:, rows],
        "backbone.norm_f.weight": whole.tensors["backbone.norm_f.weight"][rows],
        "lm_head.weight": whole.tensors["lm_head.weight"][:, rows],
    }
    for now, small in enumerate(subnet["layers"]):
        large = whole.layers[small["index"]]
        old = {
            name.removeprefix(f"backbone.layers.{small['index']}."): values
            for name, values in whole.tensors.items()
            if name.startswith(f"backbone.layers.{small['index']}.")
        }
        if small["type"] == "moe":
            own = _cut_experts(old, large, small, rows, moe_stripes or {})
        else:
            own = _cut_layer(whole, old, large, small, rows, stripes, kv_stripes)
        kept = {"norm.weight": old["norm.weight"][rows]} | own
        tensors |= {f"backbone.layers.{now}.{name}": values for name, values in kept.items()}
    layers = [dict(whole.layers[layer["index"]] | layer, index=i) for i, layer in enumerate(subnet["layers"])]
    return Model(**vars(whole) | {"hidden": subnet["hidden"], "layers": layers, "tensors": tensors})


def _first(size: int, kept: int, blocks: int) -> list[int]:
    """The first kept/blocks of each of `blocks` equal blocks of `size`."""
    return [b * (size // blocks) + j for b in range(blocks) for j in range(kept // blocks)]


def _cut_experts(
    old: Tensors, large: Mapping[str, Any], small: Mapping[str, Any], rows: list[int], stripes: Mapping[str, int]
) -> Tensors:
    experts, neurons, shared = (
        _first(large[name], small[name], stripes.get(name, 1)) for name in ("experts", "ffn", "shared_ffn")
    )
    inner = list(range(small["latent"])) if "latent" in small else rows
    out = {
        "mixer.gate.weight": old["mixer.gate.weight"][experts][:, rows],
        "mixer.gate.e_score_correction_bias": old["mixer.gate.e_score_correction_bias"][experts],
        "mixer.shared_experts.up_proj.weight": old["mixer.shared_experts.up_proj.weight"][shared][:, rows],
        "mixer.shared_experts.down_proj.weight": old["mixer.shared_experts.down_proj.weight"][rows][:, shared],
    }
    for now, before in enumerate(experts):
        up, down = (old[f"mixer.experts.{before}.{name}_proj.weight"] for name in ("up", "down"))
        out[f"mixer.experts.{now}.up_proj.weight"] = up[neurons][:, inner]
        out[f"mixer.experts.{now}.down_proj.weight"] = down[inner][:, neurons]
    if "latent" in small:
        out["mixer.fc1_latent_proj.weight"] = old["mixer.fc1_latent_proj.weight"][inner][:, rows]
        out["mixer.fc2_latent_proj.weight"] = old["mixer.fc2_latent_proj.weight"][rows][:, inner]
    return out


def _cut_layer(
    whole: Model, old: Tensors, large: Mapping[str, Any], small: Mapping[str, Any], rows: list[int], stripes: int,
    kv_stripes: int,
) -> Tensors:  # fmt: skip
    if small["type"] == "mlp":
        neurons = _first(large["ffn"], small["ffn"], stripes)
        up, down = old["mixer.up_proj.weight"], old["mixer.down_proj.weight"]
        return {"mixer.up_proj.weight": up[neurons][:, rows], "mixer.down_proj.weight": down[rows][:, neurons]}
    if small["type"] == "attention":
        groups = _first(large["kv_heads"], small.get("kv_heads", large["kv_heads"]), kv_stripes)
        each = large["heads"] // large["kv_heads"]
        heads = [g * each + j for g in groups for j in range(small["heads"] // len(groups))]
        query, shared = (
            [h * whole.attention_head_dim + c for h in own for c in range(whole.attention_head_dim)]
            for own in (heads, groups)
        )
        return {
            "mixer.q_proj.weight": old["mixer.q_proj.weight"][query][:, rows],
            "mixer.k_proj.weight": old["mixer.k_proj.weight"][shared][:, rows],
            "mixer.v_proj.weight": old["mixer.v_proj.weight"][shared][:, rows],
            "mixer.o_proj.weight": old["mixer.o_proj.weight"][rows][:, query],
        }
    heads = _first(large["heads"], small["heads"], whole.groups)
    inner = [h * large["head_dim"] + c for h in heads for c in range(small["head_dim"])]
    width, bc = large["heads"] * large["head_dim"], 2 * whole.groups * whole.state
    convolved = [*inner, *range(width, width + bc)]
    projected = [*inner, *(width + c for c in convolved), *(2 * width + bc + h for h in heads)]
    return {
        "mixer.in_proj.weight": old["mixer.in_proj.weight"][projected][:, rows],
        "mixer.conv1d.weight": old["mixer.conv1d.weight"][convolved],
        "mixer.conv1d.bias": old["mixer.conv1d.bias"][convolved],
        **{f"mixer.{name}": old[f"mixer.{name}"][heads] for name in ("A_log", "D", "dt_bias")},
        "mixer.norm.weight": old["mixer.norm.weight"][inner],
        "mixer.out_proj.weight": old["mixer.out_proj.weight"][rows][:, inner],
    }


def logits(model: Model, tokens: np.ndarray) -> np.ndarray:
    """Logits [b, l, v] of tokens [b, l]."""
    return np.stack([_logits(model, sequence) for sequence in tokens])


def _logits(model: Model, tokens_l: np.ndarray) -> np.ndarray:
    mixers = {"mamba": _mamba, "mlp": _mlp, "attention": _attention, "moe": _moe}
    x_ld = model.tensors["backbone.embeddings.weight"][tokens_l]
    for i, layer in enumerate(model.layers):
        prefix = f"backbone.layers.{i}."
        w = {n.removeprefix(prefix): t for n, t in model.tensors.items() if n.startswith(prefix)}
        normed_ld = _rms_norm(x_ld, w["norm.weight"], model.eps)
        x_ld = x_ld + mixers[layer["type"]](model, layer, w, normed_ld)
    return _rms_norm(x_ld, model.tensors["backbone.norm_f.weight"], model.eps) @ model.tensors["lm_head.weight"].T


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
        best = np.argsort(-(scores_e + w["mixer.gate.e_score_correction_bias"]), kind="stable")[: model.top_k]
        x_i = w["mixer.fc1_latent_proj.weight"] @ x_d if "latent" in layer else x_d
        y_i = np.zeros_like(x_i)
        for e in best:
            h_f = np.maximum(w[f"mixer.experts.{e}.up_proj.weight"] @ x_i, 0) ** 2
            weight = scores_e[e] / scores_e[best].sum() * model.scaling
            y_i = y_i + weight * (w[f"mixer.experts.{e}.down_proj.weight"] @ h_f)
        y_d = w["mixer.fc2_latent_proj.weight"] @ y_i if "latent" in layer else y_i
        shared_f = np.maximum(w["mixer.shared_experts.up_proj.weight"] @ x_d, 0) ** 2
        out_ld[t] = y_d + w["mixer.shared_experts.down_proj.weight"] @ shared_f
    return out_ld


def _attention(model: Model, layer: Mapping[str, Any], w: Tensors, x_ld: np.ndarray) -> np.ndarray:
    length, size = len(x_ld), model.attention_head_dim
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
    inner, bc = heads * size, model.groups * model.state
    z_li, xbc_lc, dt_lh = np.split(x_ld @ w["mixer.in_proj.weight"].T, [inner, 2 * inner + 2 * bc], axis=1)
    x_li, b_l, c_l = np.split(_convolved(w, xbc_lc), [inner, inner + bc], axis=1)
    y_li = np.zeros_like(x_li)
    for h, own in _heads(heads, size):
        group = h // (heads // model.groups)
        part = slice(group * model.state, (group + 1) * model.state)
        state_pn = np.zeros((size, model.state))
        for t in range(len(x_ld)):
            dt = max(np.log1p(np.exp(dt_lh[t, h] + w["mixer.dt_bias"][h])), model.least_dt)
            decay = math.exp(-math.exp(w["mixer.A_log"][h]) * dt)
            state_pn = decay * state_pn + dt * np.outer(x_li[t, own], b_l[t, part])
            y_li[t, own] = state_pn @ c_l[t, part] + w["mixer.D"][h] * x_li[t, own]
    y_li = y_li * _silu(z_li)
    out_li = np.zeros_like(y_li)
    for group in range(model.groups):  # the norm is per group, too
        part = slice(group * (inner // model.groups), (group + 1) * (inner // model.groups))
        out_li[:, part] = _rms_norm(y_li[:, part], w["mixer.norm.weight"][part], model.eps)
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
