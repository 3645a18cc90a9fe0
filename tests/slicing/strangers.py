# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Folders as NVIDIA publishes elastic families: config keys, names, shapes and cuts, written down by hand.

It shares no code with the package. A cut keeps the front of every dimension; Mamba heads keep the front of each of
`parts` equal parts, as Megatron's masks do on tensor-parallel ranks.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Config = dict[str, Any]
#: name -> dtype of a safetensors header, and words
Words = dict[str, tuple[str, np.ndarray]]
_SIZES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1}
#: numbers that share a scale in NVFP4
BLOCK = 16


def config(pattern: str, **own: Any) -> Config:
    """A `config.json` with the keys that the published ones have."""
    return {
        "architectures": ["NemotronHForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_nemotron_h.NemotronHConfig"}, "bos_token_id": 1, "chunk_size": 128,
        "conv_kernel": 4, "eos_token_id": 2, "expand": 2, "hidden_dropout": 0.0, "hybrid_override_pattern": pattern,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "mamba_hidden_act": "silu", "mamba_proj_bias": False,
        "max_position_embeddings": 262144, "mlp_bias": False, "mlp_hidden_act": "relu2", "model_type": "nemotron_h",
        "norm_eps": 1e-5, "num_hidden_layers": len(pattern), "num_logits_to_keep": 1, "pad_token_id": 0,
        "partial_rotary_factor": 1.0, "rescale_prenorm_residual": True, "residual_in_fp32": False,
        "rope_theta": 10000, "sliding_window": None, "tie_word_embeddings": False, "time_step_floor": 0.0001,
        "time_step_max": 0.1, "time_step_min": 0.001, "torch_dtype": "bfloat16", "use_bias": False, "use_cache": True,
        "use_conv_bias": True, "use_mamba_kernels": True,
    } | own  # fmt: skip


def experts(pattern: str, **own: Any) -> Config:
    """One with experts."""
    fixed = {"n_group": 1, "n_shared_experts": 1, "norm_topk_prob": True, "topk_group": 1}
    return config(pattern, **fixed, **({"intermediate_size": own["moe_intermediate_size"]} | own))


_MAMBA = {"mamba_num_heads": 16, "mamba_head_dim": 16, "n_groups": 4, "ssm_state_size": 8}
_ATTENTION = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "routed_scaling_factor": 2.5}
_EXPERTS = _ROUTED | {"moe_intermediate_size": 48, "moe_shared_expert_intermediate_size": 64}
#: small parents, with widths in blocks of 16
DENSE = config("M-M*-M-", hidden_size=64, vocab_size=96, intermediate_size=96, **_MAMBA, **_ATTENTION)
MOE = experts("ME*EM", hidden_size=64, vocab_size=96, **_EXPERTS, **_MAMBA, **_ATTENTION)
LATENT = MOE | {"moe_latent_size": 32}
#: the published 30B-A3B, and its smallest member, by the scripts in Megatron-LM
NANO_3 = experts(
    "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", hidden_size=2688, vocab_size=131072,
    moe_intermediate_size=1856, moe_shared_expert_intermediate_size=3712, n_routed_experts=128, num_experts_per_tok=6,
    routed_scaling_factor=2.5, mamba_num_heads=64, mamba_head_dim=64, n_groups=8, ssm_state_size=128,
    num_attention_heads=32, num_key_value_heads=2, head_dim=128,
)  # fmt: skip
NANO_3_12B = NANO_3 | {"hidden_size": 1920, "moe_intermediate_size": 960, "intermediate_size": 960}
# ------------------------------------------------------------------ which positions a child keeps


#: symbol of a layer -> its widths, and their keys in a config
WIDTHS = {
    "M": {"heads": "mamba_num_heads", "head_dim": "mamba_head_dim"},
    "-": {"ffn": "intermediate_size"},
    "*": {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads"},
    "E": {"experts": "n_routed_experts", "ffn": "moe_intermediate_size",
          "shared_ffn": "moe_shared_expert_intermediate_size", "latent": "moe_latent_size"},
}  # fmt: skip


def widths_of(own: Config, symbol: str) -> dict[str, int]:
    """Widths of a layer; a latent width where there is one."""
    return {width: own[key] for width, key in WIDTHS[symbol].items() if own.get(key)}


def kept(parent: Config, child: Config, layers: Sequence[int] | None = None, parts: int | None = None) -> dict:
    """Name in the child -> (name in the parent, positions that stay of each dimension); layers count in the parent."""
    d, out = np.arange(child["hidden_size"]), {}
    vocab = np.arange(parent["vocab_size"])

    def layer(symbol: str, here: str, there: str) -> None:
        blocks = {"heads": parts or parent["n_groups"]} if symbol == "M" else {}
        own = kept_of_layer(parent, symbol, widths_of(parent, symbol), widths_of(child, symbol), d, blocks)
        out.update({here + name: (there + source, dims) for name, (source, dims) in own.items()})

    out["backbone.embeddings.weight"] = "backbone.embeddings.weight", (vocab, d)
    for at, i in enumerate(range(len(parent["hybrid_override_pattern"])) if layers is None else layers):
        layer(parent["hybrid_override_pattern"][i], f"backbone.layers.{at}.", f"backbone.layers.{i}.")
    out["backbone.norm_f.weight"] = "backbone.norm_f.weight", (d,)
    out["lm_head.weight"] = "lm_head.weight", (vocab, d)
    if parent.get("num_nextn_predict_layers"):  # attention, then experts
        both = np.r_[d, parent["hidden_size"] + d]
        for name in ("enorm", "hnorm"):
            out[f"mtp.layers.0.{name}.weight"] = f"mtp.layers.0.{name}.weight", (d,)
        out["mtp.layers.0.eh_proj.weight"] = "mtp.layers.0.eh_proj.weight", (d, both)
        for at, symbol in enumerate("*E"):
            layer(symbol, f"mtp.layers.{at}.", f"mtp.layers.{at}.")
        out["mtp.layers.1.final_layernorm.weight"] = "mtp.layers.1.final_layernorm.weight", (d,)
    return out


def first(size: int, front: int, blocks: int = 1) -> np.ndarray:
    """The first front/blocks of each of `blocks` equal blocks of `size`."""
    return np.arange(size).reshape(blocks, -1)[:, : front // blocks].reshape(-1)


def kept_of_layer(
    sizes: Config,
    symbol: str,
    large: Mapping[str, Any],
    small: Mapping[str, Any],
    d: np.ndarray,
    blocks: Mapping[str, int],
) -> dict[str, tuple[str, tuple[np.ndarray, ...]]]:
    """Name in the child's layer -> name in the parent's, and the positions that stay of each dimension.

    Args:
        sizes: the parent's config, for what all layers share.
        symbol: of the layer.
        large: its widths in the parent.
        small: its widths in the child.
        d: channels of the residual stream that stay.
        blocks: of widths whose channels lie in several equal blocks: number of blocks.
    """

    def front(width: str) -> np.ndarray:
        return first(large[width], small[width], blocks.get(width, 1))

    def channels(of: Sequence[int] | np.ndarray, size: int, front: int | None = None) -> np.ndarray:
        return np.concatenate([size * x + np.arange(front or size) for x in of])

    moved = {}
    if symbol == "-":
        f = front("ffn")
        dims = {"up_proj.weight": (f, d), "down_proj.weight": (d, f)}
    elif symbol == "*":
        groups, share = front("kv_heads"), large["heads"] // large["kv_heads"]
        heads = [share * g + q for g in groups for q in range(small["heads"] // len(groups))]
        query, value = channels(heads, sizes["head_dim"]), channels(groups, sizes["head_dim"])
        dims = {"q_proj.weight": (query, d), "k_proj.weight": (value, d), "v_proj.weight": (value, d),
                "o_proj.weight": (d, query)}  # fmt: skip
    elif symbol == "M":
        h, whole = front("heads"), large["heads"] * large["head_dim"]
        inner = channels(h, large["head_dim"], small["head_dim"])
        shared = np.arange(2 * sizes["n_groups"] * sizes["ssm_state_size"])
        conv = np.r_[inner, whole + shared]
        dims = {
            "in_proj.weight": (np.r_[inner, whole + inner, 2 * whole + shared, 2 * whole + len(shared) + h], d),
            "conv1d.weight": (conv, np.arange(1), np.arange(sizes["conv_kernel"])), "conv1d.bias": (conv,),
            "A_log": (h,), "D": (h,), "dt_bias": (h,), "norm.weight": (inner,), "out_proj.weight": (d, inner),
        }  # fmt: skip
    else:
        e, f, s = front("experts"), front("ffn"), front("shared_ffn")
        x = front("latent") if "latent" in small else d
        dims = {
            "gate.weight": (e, d), "gate.e_score_correction_bias": (e,),
            "shared_experts.up_proj.weight": (s, d), "shared_experts.down_proj.weight": (d, s),
        }  # fmt: skip
        if "latent" in small:
            dims |= {"fc1_latent_proj.weight": (x, d), "fc2_latent_proj.weight": (d, x)}
        for now, before in enumerate(e):
            each = {"up_proj.weight": (f, x), "down_proj.weight": (x, f)}
            dims |= {f"experts.{now}.{name}": value for name, value in each.items()}
            moved |= {f"experts.{now}.{name}": f"experts.{before}.{name}" for name in each}
    mixer = {f"mixer.{name}": (f"mixer.{moved.get(name, name)}", value) for name, value in dims.items()}
    return mixer | {"norm.weight": ("norm.weight", (d,))}


# ------------------------------------------------------------------ words


def _dtype(name: str) -> str:
    return "F32" if name.endswith("e_score_correction_bias") else "BF16"


def _is_low(name: str, dims: Sequence[Any]) -> bool:
    whole = re.search("embeddings|lm_head|gate|conv1d|eh_proj|mtp", name)
    return len(dims) == 2 and not whole


def words(parent: Config, precision: str = "bf16", seed: int = 0) -> Words:
    """Every tensor of a parent, of small random numbers."""
    rng, out = np.random.default_rng(seed), {}
    for name, (_, dims) in kept(parent, parent).items():
        shape = tuple(map(len, dims))
        if precision != "bf16" and _is_low(name, dims):
            out |= _low(name.removesuffix("weight"), shape, precision, rng)
            if kv := re.search(r"([kv])_proj\.weight$", name):  # the key-value cache is in FP8
                out[f"{name.removesuffix('weight')}{kv[1]}_scale"] = _one(rng)
            continue
        scale = 0.5 if len(shape) == 1 or "conv1d" in name else 0.7 / shape[-1] ** 0.5
        bits = (rng.standard_normal(shape) * scale).astype("<f4").view("<u4")
        out[name] = ("F32", bits) if _dtype(name) == "F32" else ("BF16", (bits >> 16).astype("<u2"))
    return out


def _one(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A scale of a whole tensor."""
    return "F32", np.float32(rng.uniform(0.01, 0.02)).reshape(()).view("<u4")


def _low(module: str, shape: tuple[int, ...], precision: str, rng: np.random.Generator) -> Words:
    """As ModelOpt writes a weight: FP8 with a scale per tensor, or NVFP4 with scales of blocks."""
    if precision == "fp8":
        codes = rng.integers(0, 0x50, shape, dtype="u1") | (rng.integers(0, 2, shape, dtype="u1") << 7)
        own = {"weight": ("F8_E4M3", codes), "weight_scale": _one(rng), "input_scale": _one(rng)}
    else:
        packed, blocks = (shape[0], shape[1] // 2), (shape[0], shape[1] // BLOCK)
        scales = "F8_E4M3", rng.integers(0x20, 0x40, blocks, dtype="u1")
        own = {"weight": ("U8", rng.integers(0, 256, packed, dtype="u1")), "weight_scale": scales}
        own |= {"weight_scale_2": _one(rng), "input_scale": _one(rng)}
    return {module + name: value for name, value in own.items()}


def cut(whole: Words, parent: Config, child: Config, layers: Sequence[int] | None = None,
        parts: int | None = None) -> Words:  # fmt: skip
    """The tensors of a child."""
    out: Words = {}
    for name, (theirs, dims) in kept(parent, child, layers, parts).items():
        dtype, given = whole[theirs]
        if dtype == "U8":
            halves, blocks = dims[1][::2] // 2, dims[1][::BLOCK] // BLOCK
            assert np.array_equal((blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel(), dims[1])
            stem, own = theirs.removesuffix("weight"), name.removesuffix("weight")
            scale = whole[f"{stem}weight_scale"]
            out[name] = dtype, given[np.ix_(dims[0], halves)]
            out[f"{own}weight_scale"] = scale[0], scale[1][np.ix_(dims[0], blocks)]
        else:
            out[name] = dtype, given[np.ix_(*dims)]
        stem, own = theirs.removesuffix("weight"), name.removesuffix("weight")
        for scale in ("weight_scale", "weight_scale_2", "input_scale", "k_scale", "v_scale"):
            if stem + scale in whole and own + scale not in out:
                out[own + scale] = whole[stem + scale]
    return out


# ------------------------------------------------------------------ folders


def described(own: Config, precision: str) -> Config:
    """The config of a folder in a precision."""
    if precision == "bf16":
        return own
    said = {"quant_algo": precision.upper(), "quant_method": "modelopt", "producer": {"name": "modelopt"}}
    said |= {"kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}}
    beside = ["mtp*"] if own.get("num_nextn_predict_layers") else []
    more = {"group_size": BLOCK} if precision == "nvfp4" else {}
    return own | {"quantization_config": said | more | {"ignore": ["lm_head", *beside]}}


def write(folder: Path, own: Config, tensors: Words, files: int = 2) -> Path:
    """A folder of a config and weights in several files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(own))
    names, index = list(tensors), {}
    for n in range(files):
        file = f"model-{n + 1:05}-of-{files:05}.safetensors"
        part = {name: tensors[name] for name in names[n::files]}
        head, data = _header({name: (dtype, given.shape) for name, (dtype, given) in part.items()})
        body = b"".join(np.ascontiguousarray(given).tobytes() for _, given in part.values())
        assert len(body) == data
        (folder / file).write_bytes(head + body)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def write_holes(folder: Path, own: Config) -> Path:
    """A folder whose weights have their full size and take no room: a file of holes, all numbers 0."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(own))
    shapes = {name: (_dtype(name), tuple(map(len, dims))) for name, (_, dims) in kept(own, own).items()}
    head, data = _header(shapes)
    (folder / "model.safetensors").write_bytes(head)
    os.truncate(folder / "model.safetensors", len(head) + data)
    return folder


def _header(shapes: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, int]:
    header, at = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = math.prod(shape) * _SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text, at


def read(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Every tensor of a folder: dtype, shape and bytes."""
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        for name, own in json.loads(content[8:start]).items():
            if name != "__metadata__":
                first, last = own["data_offsets"]
                out[name] = own["dtype"], own["shape"], content[start + first : start + last]
    return out


def words_of(folder: Path) -> Words:
    """The same as words."""
    return {
        name: (dtype, np.frombuffer(content, f"<u{_SIZES[dtype]}").reshape(shape))
        for name, (dtype, shape, content) in read(folder).items()
    }


def same(a: Words, b: Words) -> bool:
    """Whether two models have the same tensors."""
    equal = (a[name][0] == b[name][0] and np.array_equal(a[name][1], b[name][1]) for name in a.keys() & b.keys())
    return a.keys() == b.keys() and all(equal)


def count(own: Config) -> int:
    """Parameters of a model, those that predict further tokens left out."""
    return sum(math.prod(map(len, dims)) for name, (_, dims) in kept(own, own).items() if not name.startswith("mtp."))
