# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Scales of a key-value cache in FP8, which a checkpoint has beside its weights: one number for all heads of a layer.

A member has some of these heads, so the layer's number fits it, too: it goes along with a layer that stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.attention import ATTENTION
from nemo_elastic.core.kinds.record import HF_LAYER
from nemo_elastic.core.layout import named
from nemo_elastic.core.precision import FP8
from nemo_elastic.errors import ElasticError, bad

from .quantized import FLOATS, check_scale
from .raw import Raw

__all__ = ["CACHE", "cache_scales", "check_cache", "has_cache", "of_member"]

#: last parts of their names: ModelOpt has them at the projections, compressed-tensors at the layer's mixer
CACHE = ("k_scale", "v_scale")
#: keys under which a folder says the precision of the cache
_SAYS = ("kv_cache_quant_algo", "kv_cache_scheme")


def cache_scales(tensors: Mapping[str, Raw], held: Subnet) -> dict[str, Raw]:
    """Those among the tensors of a folder.

    Args:
        tensors: by name.
        held: the model.

    Raises:
        ElasticError: one is no positive number.
    """
    layers = [named(HF_LAYER, at) for at, layer in enumerate(held.layers) if layer.type == ATTENTION]
    own = [f"{layer}mixer.{part}{name}" for layer in layers for name in CACHE for part in ("", f"{name[0]}_proj.")]
    out = {name: tensors[name] for name in own if name in tensors}
    for name, raw in out.items():
        if raw.dtype not in FLOATS or raw.words.size != 1:
            raise ElasticError(f"scale {name!r} has dtype {raw.dtype!r} and shape {list(raw.shape)}, not one number")
        check_scale(name, raw, FP8)
    return out


def of_member(scales: Mapping[str, Raw], held: Subnet, member: Subnet) -> dict[str, Raw]:
    """Those of a member's layers, by the names that they have there."""
    index = {layer.index: at for at, layer in enumerate(held.layers)}
    out = {}
    for at, layer in enumerate(member.layers):
        old, new = (named(HF_LAYER, i) for i in (index[layer.index], at))
        out |= {new + name.removeprefix(old): raw for name, raw in scales.items() if name.startswith(old)}
    return out


def has_cache(config: Mapping[str, Any] | None, names: Iterable[str]) -> bool:
    """Whether a folder's cache is in FP8, by what its `quantization_config` says, or by its tensors.

    Args:
        config: that of it.
        names: of its tensors.
    """
    said = any((config or {}).get(key) for key in _SAYS)
    return said or any(name.rpartition(".")[2] in CACHE for name in names)


def check_cache(section: Mapping[str, Any], where: str) -> None:
    """Raise where a folder says of its cache that it is in another precision than FP8; `section` is what says so."""
    name, scheme = (section.get(key) for key in _SAYS)
    if name not in (None, "", "FP8"):
        raise bad(f"{where}.{_SAYS[0]}", name, "FP8 or null: others cannot be cut")
    if scheme is None:
        return
    plain = isinstance(scheme, Mapping) and (scheme.get("type"), scheme.get("num_bits")) == ("float", 8)
    if not plain or scheme.get("dynamic") or scheme.get("strategy") not in (None, "tensor"):
        raise bad(f"{where}.{_SAYS[1]}", scheme, "floats of 8 bits with one scale, or null: others cannot be cut")
