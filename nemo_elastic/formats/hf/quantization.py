# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What we write of a folder's low precision: `quantization_config`, and ModelOpt's `hf_quant_config.json`.

In ModelOpt's unified layout and in compressed-tensors'. Both name the modules that stay in full precision, in the
numbers of the folder's own layers; so a member's are written anew. `precision` reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nemo_elastic import __version__
from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.precision import FP8, NVFP4
from nemo_elastic.formats.low_precision import COMPRESSED, MODELOPT, WEIGHT, Stored

from .patterns import anywhere

__all__ = [
    "ALGORITHMS", "KEY", "MIXED", "MIXED_STORED", "OURS", "QUANT_FILE", "STORED", "WEIGHTS_ONLY", "described",
    "linear_modules",
]  # fmt: skip

#: in `config.json`, and the file in which ModelOpt says the same
KEY, QUANT_FILE = "quantization_config", "hf_quant_config.json"
#: precision -> what ModelOpt calls it, and what compressed-tensors calls the way in which it is stored
ALGORITHMS = {NVFP4: "NVFP4", FP8: "FP8"}
STORED = {NVFP4: "nvfp4-pack-quantized", FP8: "float-quantized"}
#: who wrote it, as ModelOpt's files say
OURS = {"name": "nemo-elastic", "version": __version__}
#: what compressed-tensors says of a cache in FP8
_CACHE = {"type": "float", "num_bits": 8, "strategy": "tensor", "symmetric": True, "dynamic": False}
WEIGHTS_ONLY, MIXED = "W4A16_NVFP4", "MIXED_PRECISION"
MIXED_STORED = "mixed-precision"


def linear_modules(parent: Parent, member: Subnet) -> dict[str, str]:
    """Weight -> module, of all that loaders build as linear layers: matrices but for those of embeddings, and the
    router's, which is none of theirs.
    """
    own = [t for t in layout.tensors(parent, member) if len(t.shape) == 2 and t.hf.endswith("." + WEIGHT)]
    return {t.hf: t.hf.removesuffix("." + WEIGHT) for t in own if t.row.name not in ("embedding", "moe.gate")}


def described(
    parent: Parent, member: Subnet, weights: Mapping[str, Stored], beside: Collection[str] = (), cache: bool = False
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a member's folder says of its weights of low precision.

    Args:
        parent: shape of the parent.
        member: the member.
        weights: those of low precision, by their names in the member or in layers that predict more than one token:
            how they are stored.
        beside: names of the tensors of such layers.
        cache: the key-value cache is in FP8.

    Returns:
        `quantization_config`, and the content of `hf_quant_config.json`; None where the layout has none.
    """
    modules = linear_modules(parent, member)
    stay = sorted(module for weight, module in modules.items() if weight not in weights)
    # no linear layer to transformers, and one to vLLM, which looks for it in the same list
    stay += sorted(
        t.hf.removesuffix("." + WEIGHT)
        for t in layout.tensors(parent, member)
        if t.row.name in ("mamba.conv_weight", "moe.gate")
    )
    scaled = {name.rpartition(".")[0] for name in beside if name.endswith(".weight_scale")}
    stay += sorted({name.removesuffix("." + WEIGHT) for name in beside if name.endswith("." + WEIGHT)} - scaled)
    own = {name.removesuffix("." + WEIGHT): kind for name, kind in weights.items()}
    kinds = list(dict.fromkeys(own.values()))
    if kinds[0].scheme.layout == MODELOPT:
        return _modelopt(own, kinds, stay, cache)
    return _compressed(own, kinds, stay, cache), None


def _named(stored: Stored) -> dict[str, Any]:
    scheme = stored.scheme
    name = ALGORITHMS[scheme.precision] if stored.activations or not scheme.block else WEIGHTS_ONLY
    return {"quant_algo": name} | ({"group_size": scheme.block} if scheme.block else {})


def _modelopt(
    modules: Mapping[str, Stored], kinds: Sequence[Stored], stay: list[str], cache: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As ModelOpt's `export/quant_utils.py` and `export/convert_hf_config.py` write both."""
    own = _named(kinds[0])
    if len(kinds) > 1:
        own = {"quant_algo": MIXED, "quantized_layers": {name: _named(kind) for name, kind in modules.items()}}
    kept = ALGORITHMS[FP8] if cache else None
    file = {"producer": OURS, "quantization": own | {"kv_cache_quant_algo": kept, "exclude_modules": stay}}
    config = own | {"ignore": stay, "producer": OURS, "quant_method": MODELOPT}
    if cache:
        config["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "float"}
    if len(kinds) == 1:
        scheme, activations, _ = kinds[0]
        numbers = {"dynamic": False, "num_bits": 4 if scheme.block else 8, "type": "float"}
        numbers |= {"group_size": scheme.block} if scheme.block else {}
        group = {"weights": numbers, "targets": ["Linear"]} | ({"input_activations": numbers} if activations else {})
        config["config_groups"] = {"group_0": group}
    return config, file


def _compressed(
    modules: Mapping[str, Stored], kinds: Sequence[Stored], stay: list[str], cache: bool
) -> dict[str, Any]:
    """As compressed-tensors' `QuantizationConfig` has it."""
    groups = {}
    for number, own in enumerate(kinds):
        scheme, activations, by_row = own
        named = [anywhere(name) for name, kind in modules.items() if kind == own]
        weights: dict[str, Any] = {"type": "float", "symmetric": True, "dynamic": False}
        if scheme.block:
            weights |= {"num_bits": 4, "strategy": "tensor_group", "group_size": scheme.block}
            inputs = weights | {"dynamic": "local"} if activations else None
        else:
            tensor = weights | {"num_bits": 8, "strategy": "tensor"}
            inputs = tensor if activations else tensor | {"strategy": "token", "dynamic": True}
            weights = tensor | {"strategy": "channel"} if by_row else tensor
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if len(kinds) == 1 else named,
            "weights": weights,
            "input_activations": inputs,
            "output_activations": None,
            "format": STORED[scheme.precision],
        }
    return {
        "quant_method": COMPRESSED,
        "format": STORED[kinds[0].scheme.precision] if len(kinds) == 1 else MIXED_STORED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [anywhere(name) for name in stay],
        "kv_cache_scheme": _CACHE if cache else None,
    }
