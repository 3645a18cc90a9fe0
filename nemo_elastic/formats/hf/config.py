# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes to Hugging Face's `config.json` and back.

A member with one width per layer type is a plain `nemotron_h`, which transformers, vLLM and llama.cpp know. A member
whose layers differ is a `nemotron_h_puzzle`: the same keys plus `block_configs`, one entry a layer, and two small
files of code (`puzzle/`) that transformers and vLLM load with `trust_remote_code`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nemo_elastic.core.family import MAX_LAYERS, Layer, Parent, Subnet, largest, positive, positive_real
from nemo_elastic.core.kinds.record import Kind
from nemo_elastic.core.kinds.registry import HIDDEN, KINDS, striped_axes, symbols
from nemo_elastic.core.prediction import Prediction
from nemo_elastic.errors import ElasticError, bad, inside

__all__ = ["PLAIN", "PUZZLE", "from_hf_config", "prediction_config", "prediction_of", "predicts", "to_hf_config"]

PLAIN, PUZZLE = "nemotron_h", "nemotron_h_puzzle"

#: size outside the layers -> its keys in config.json; we write the first
_MODEL_SIZES = {"vocab": ("vocab_size",), HIDDEN: ("hidden_size",)}
#: what a model must (not) have to be one that we can cut: key -> the only value
_FIXED = {
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "mamba_proj_bias": False,
    "use_conv_bias": True,
    "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu",
    "sliding_window": None,
}
#: keys of MTP layers, their number first; they have the model's widths
_PREDICTION = (
    "num_nextn_predict_layers", "mtp_hybrid_override_pattern", "mtp_layers_block_type", "mtp_use_repeated_layer",
)  # fmt: skip
#: layers of a step where a config lists none, as transformers has it
_DEFAULT_PREDICTION = ("full_attention", "moe")
#: settings without a shape: taken over from the source, else these values
_CARRIED: dict[str, Any] = {
    "max_position_embeddings": 131072,
    "initializer_range": 0.02,
    "chunk_size": 128,
    "expand": 2,
    "rescale_prenorm_residual": True,
    "residual_in_fp32": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "use_cache": True,
    "num_logits_to_keep": 1,
    "bos_token_id": None,  # not a guess: a wrong end of sequence cuts generated text short
    "eos_token_id": None,
    "pad_token_id": None,
    "mamba_ssm_cache_dtype": "float32",
}
#: dtype in a safetensors header -> `torch_dtype`. Weights in float8 are computed with in bfloat16.
_TORCH_DTYPE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def to_hf_config(
    parent: Parent,
    member: Subnet,
    *,
    dtype: str = "BF16",
    base: Mapping[str, Any] | None = None,
    prediction: bool = False,
) -> dict[str, Any]:
    """Describe a member as `config.json`: `nemotron_h` for one width per layer type, else `nemotron_h_puzzle`.

    `dtype` is a name in a safetensors header. Settings without a shape (token ids, context length, ...) are those of
    `base`, another `config.json`; with `prediction` also its layers that predict more than one token.
    """
    base = base or {}
    # Of layers that differ, the largest: vLLM reads a Mamba layer by the model's widths, refuses a smaller tensor and
    # silently takes a part of a larger one.
    kinds = [parent.kind(name) for name, kind in KINDS.items() if kind.always or name in parent.types]
    sizes = dict(parent.sizes) | {HIDDEN: member.hidden}
    sizes |= {axis: max(widths) for kind in kinds for axis in kind.widths if (widths := member.widths(axis))}
    keys = _MODEL_SIZES | {size: names for kind in kinds for size, names in kind.hf.items()}
    out: dict[str, Any] = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": PLAIN,
        # Versions of transformers and vLLM turn the pattern into layer types with different names.
        "hybrid_override_pattern": member.pattern,
        "num_hidden_layers": len(member.layers),
    }
    out |= {names[0]: sizes[size] for size, names in keys.items()}
    out |= {"tie_word_embeddings": parent.tied, "layer_norm_epsilon": parent.norm_eps, "rms_norm_eps": parent.norm_eps}
    out |= _FIXED
    out |= {key: value for kind in kinds for key, value in kind.hf_fixed.items()}
    # transformers clamps dt to at least this, Megatron and vLLM do not: its default of 0.001 changes the logits by
    # 7e-3, and 0 cannot be initialised from (it takes the logarithm).
    out |= {"time_step_min": 1e-12, "time_step_max": 0.1, "time_step_floor": 1e-4}
    out |= {key: base.get(key, value) for key, value in _CARRIED.items()}
    if not any(KINDS[layer.type].attends for layer in member.layers):
        out["use_cache"] = False  # transformers' cache asks an attention layer for its length
    if "mamba_chunk_size" in base:
        out["chunk_size"] = base["mamba_chunk_size"]
    if prediction:
        out |= {key: base[key] for key in _PREDICTION if key in base}
        if "n_routed_experts" in out and not member.is_uniform:
            out["mtp_n_routed_experts"] = out["n_routed_experts"]  # which vLLM asks for there
    out["torch_dtype"] = _TORCH_DTYPE.get(dtype, "bfloat16")
    return out if member.is_uniform else out | _puzzle(member)


def _puzzle(member: Subnet) -> dict[str, Any]:
    """Settings of layers that differ in width."""
    blocks = []
    for layer in member.layers:
        kind = KINDS[layer.type]
        widths = {kind.hf[axis][0]: width for axis, width in layer.widths.items()}
        blocks.append({"block_type": kind.hf_types[0], **widths})
    return {
        "architectures": ["NemotronHPuzzleForCausalLM"],
        "model_type": PUZZLE,
        "auto_map": {
            "AutoConfig": "configuration_nemotron_h_puzzle.NemotronHPuzzleConfig",
            "AutoModelForCausalLM": "modeling_nemotron_h_puzzle.NemotronHPuzzleForCausalLM",
        },
        "block_configs": blocks,
    }


def from_hf_config(config: Any, where: str = "config.json") -> tuple[Parent, Subnet]:
    """Read the shape of a Nemotron-H from its `config.json`, as a parent and the member that it is.

    The member is the parent itself, except for a `nemotron_h_puzzle`, whose parent has the largest width of each axis.
    A model that cannot be cut (groups of experts, biases) is refused; `where` is the file, for errors.
    """
    if not isinstance(config, Mapping) or config.get("model_type") not in (PLAIN, PUZZLE):
        kind = config.get("model_type") if isinstance(config, Mapping) else None
        raise bad(f"{where}: model_type", kind, f"only a Nemotron-H can be read ({PLAIN} or {PUZZLE})")
    _check_fixed(config, _FIXED, where)
    for key in ("time_step_limit", "mamba_dt_limit"):
        limit = config.get(key)
        if isinstance(limit, list) and any(isinstance(x, (int, float)) and 0 < x < math.inf for x in limit):
            raise bad(f"{where}: {key}", limit, "only the unlimited 0 to infinity is supported")
    types = _layer_types(config, where)
    kinds = [kind for kind in KINDS.values() if kind.name in types]
    for kind in kinds:
        _check_fixed(config, kind.hf_fixed, where)
    sizes = _read_sizes(config, kinds, where)
    eps = next((config[k] for k in ("layer_norm_epsilon", "rms_norm_eps", "norm_eps") if k in config), 1e-5)
    tied = config.get("tie_word_embeddings", False)
    blocks = _read_blocks(config, types, sizes, where)
    for axis, stripes in striped_axes().items():  # optional axes: only where layers differ
        if any(stripes in kind.without for kind in kinds):
            if any(block.get(axis, sizes[axis]) != sizes[axis] for block in blocks):
                sizes[stripes] = 1
            else:
                blocks = [{name: n for name, n in block.items() if name != axis} for block in blocks]
    sizes |= largest(zip(types, blocks, strict=True))
    pattern = "".join(KINDS[t].symbol for t in types)
    with inside(where):
        parent = Parent(pattern=pattern, tied=tied, norm_eps=eps, sizes=sizes)
        layers = tuple(Layer(i, t, b) for i, (t, b) in enumerate(zip(types, blocks, strict=True)))
        return parent, Subnet(parent.hidden, layers).validate(parent)


def _check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    for key, only in fixed.items():
        if config.get(key, only) != only:
            raise bad(f"{where}: {key}", config[key], f"only {only!r} is supported")


def predicts(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` says that there are layers that predict more than one token."""
    return bool(config.get(_PREDICTION[0]))


def prediction_of(config: Mapping[str, Any], where: str = "config.json") -> Prediction | None:
    """The MTP layers, or None.

    Steps that are said to be repeated (`mtp_use_repeated_layer`) have the layers of one.
    """
    if not predicts(config):
        return None
    steps = positive(f"{where}: {_PREDICTION[0]}", config[_PREDICTION[0]])
    listed = config.get("mtp_layers_block_type") or list(_DEFAULT_PREDICTION)
    symbols_of = {t: kind.symbol for kind in KINDS.values() for t in kind.hf_types}
    pattern = config.get("mtp_hybrid_override_pattern")
    if pattern is None and isinstance(listed, list):
        pattern = "".join(symbols_of.get(t, "?") if isinstance(t, str) else "?" for t in listed)
    if not isinstance(pattern, str) or not pattern or set(pattern) - set(symbols()):
        given = next((key for key in reversed(_PREDICTION) if key in config), _PREDICTION[1])
        raise bad(f"{where}: {given}", config.get(given), f"one of {' '.join(symbols())} per layer")
    return Prediction(pattern, 1 if config.get("mtp_use_repeated_layer") else steps)


def prediction_config(layers: Prediction, steps: Any) -> dict[str, Any]:
    """Settings of layers that predict more than one token, run for so many steps; undone by `prediction_of`."""
    fields = {_PREDICTION[0]: steps, "mtp_hybrid_override_pattern": layers.pattern}
    return fields | ({"mtp_use_repeated_layer": True} if layers.steps != steps else {})


def _layer_types(config: Mapping[str, Any], where: str) -> list[str]:
    """Type of each layer, from the pattern and from the list of names; transformers takes the first list there is."""
    spelled = {kind.symbol: kind.name for kind in KINDS.values()}
    named = {t: kind.name for kind in KINDS.values() for t in kind.hf_types}
    listed = next((config[key] for key in ("layers_block_type", "layer_types") if config.get(key) is not None), None)
    read: list[list[str]] = []
    for key, given, form, known in (
        ("hybrid_override_pattern", config.get("hybrid_override_pattern"), str, spelled),
        ("layers_block_type", listed, list, named),
    ):
        if given is None:
            continue
        if isinstance(given, (str, list)) and len(given) > MAX_LAYERS:
            raise bad(f"{where}: num_hidden_layers", len(given), f"at most {MAX_LAYERS}")
        odd = [t for t in given if not isinstance(t, str) or t not in known] if isinstance(given, form) else []
        if not isinstance(given, form) or not given or odd:
            allowed = f"one of {' '.join(known)} per layer; others cannot be cut"
            raise bad(f"{where}: {key}", odd[0] if odd and form is list else given, allowed)
        read.append([known[t] for t in given])
    if not read:
        raise ElasticError(f"{where}: hybrid_override_pattern or layers_block_type is missing")
    types = read[0]
    if read[-1] != types:
        raise ElasticError(f"{where}: hybrid_override_pattern and layers_block_type do not agree")
    depth = config.get("num_hidden_layers", len(types))
    if depth != len(types):
        raise bad(f"{where}: num_hidden_layers", depth, f"the pattern has {len(types)} layers")
    return types


def _read_sizes(config: Mapping[str, Any], kinds: list[Kind], where: str) -> dict[str, Any]:
    """Sizes of the model; sizes of absent kinds keep their defaults."""
    sizes = {}
    optional = {size for kind in kinds for size in kind.without}
    reals = {size for kind in kinds for size in kind.reals}
    for size, keys in (_MODEL_SIZES | {size: keys for kind in kinds for size, keys in kind.hf.items()}).items():
        value = next((config[k] for k in keys if config.get(k) is not None), None)
        if value is None and (blocked := next((a for k in kinds for a, b in k.nested.items() if b == size), None)):
            value = sizes.get(blocked)  # no grouped queries: every head is a group
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]  # vLLM takes intermediate_size as a list too
        if value is None and size not in optional:
            raise ElasticError(f"{where}: {keys[0]} is missing")
        if value is not None:
            check = positive_real if size in reals else positive
            sizes[size] = check(f"{where}: {keys[0]}", value)
    return sizes


def _read_blocks(
    config: Mapping[str, Any], types: list[str], sizes: dict[str, Any], where: str
) -> list[dict[str, int]]:
    """Widths of each layer by axis."""
    widths = [{axis: sizes[axis] for axis in KINDS[t].widths if axis in sizes} for t in types]
    if config["model_type"] == PLAIN:
        return widths
    blocks = config.get("block_configs")
    if not isinstance(blocks, list) or len(blocks) != len(types):
        raise bad(f"{where}: block_configs", blocks, f"a list of {len(types)} entries, one per layer")
    for i, (block, kind) in enumerate(zip(blocks, (KINDS[t] for t in types), strict=True)):
        at = f"{where}: block_configs[{i}]"
        if not isinstance(block, Mapping) or block.get("block_type") not in kind.hf_types:
            raise bad(at, block, f"block_type {kind.hf_types[0]!r}, as the pattern says")
        axes = {kind.hf[axis][0]: axis for axis in kind.widths if axis in widths[i]}
        for key, value in block.items():
            if key in axes:
                widths[i][axes[key]] = positive(f"{at}.{key}", value)
            elif key != "block_type":
                raise bad(f"{at}.{key}", value, f"only {', '.join(axes)} may differ per layer")
    return widths
