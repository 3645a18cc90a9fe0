# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How files store low-precision weights: codes and scales as separate tensors.

Each has the weight's dimensions in units of blocks, so a selection of the weight gives one of codes and scales.
Scales of a whole weight are read when a folder is opened. Codes and scales of blocks are not: those that are no
numbers are found when weights are loaded, and by `verify`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.attention import ATTENTION
from nemo_elastic.core.kinds.record import HF_LAYER
from nemo_elastic.core.layout import named
from nemo_elastic.core.precision import FP8, LARGEST
from nemo_elastic.core.prefix import ONE, Selection
from nemo_elastic.errors import ElasticError, bad, inside

from .schemes import COMPRESSED, FLOATS, SCHEMES, WEIGHT, Quantization, Scheme
from .tensor import Tensor

if TYPE_CHECKING:
    import torch

__all__ = [
    "CACHE", "Changed", "SplitBlockError", "bad_scales", "cache_of_member", "check_cache", "check_cache_scales",
    "check_no_others", "codes_and_scales", "find_quantized", "has_cache", "requantized", "select", "share_changed",
    "stored_scale", "stored_values",
]  # fmt: skip

#: last parts of names of the cache's scales: ModelOpt has them at the projections, compressed-tensors at the mixer
CACHE = ("k_scale", "v_scale")
#: keys under which a folder says the precision of the cache
_SAYS = ("kv_cache_quant_algo", "kv_cache_scheme")


class SplitBlockError(ElasticError):
    """A member keeps a part of a block that has one scale."""


# ------------------------------------------------------------------ cuts


def select(stored: Quantization, parts: Mapping[str, Tensor], selections: Sequence[Selection]) -> dict[str, Tensor]:
    """What selections of a weight keep of each of its tensors, by their names after the module's.

    Raises:
        SplitBlockError: a block that has one scale stays in part.
    """
    out = {}
    for part, tensor in parts.items():
        columns = stored.columns(part)
        if columns is None or not selections:
            out[part] = tensor
        elif columns == 0:
            out[part] = tensor.take((selections[0], Selection((ONE,))))
        elif (blocks := selections[1].in_blocks(columns)) is not None:
            out[part] = tensor.take((selections[0], blocks))
        else:
            whole, kept = selections[1].size, selections[1].kept_size
            what = f"{kept} of {whole} channels are not whole blocks of {columns}"
            raise SplitBlockError(f"{what}; --requantize rounds the weight again")
    return out


#: of requantized weights, by name and first row: sums of squares of the values, and of what requantizing changed
Changed = dict[tuple[str, int], tuple[float, float]]


def requantized(
    name: str, stored: Quantization, parts: Mapping[str, Tensor], selections: Sequence[Selection], changed: Changed
) -> dict[str, Tensor]:
    """A weight's tensors where selections tear blocks: codes and block scales are computed from the values again, some
    rows at a time, under the same scale of scales. `changed` is filled while they are read.

    Raises:
        SplitBlockError: the columns that stay are no blocks at all.
    """
    scheme, kept, shape = stored.scheme, selections[1].kept_size, stored.shape(parts)
    if kept % scheme.block:
        raise SplitBlockError(f"{kept} channels are no multiple of {scheme.block}: take another size")

    def values(first: int, last: int) -> np.ndarray:
        import torch

        some = {
            part: tensor if stored.columns(part) is None else Tensor.of_words(tensor.dtype, tensor.rows(first, last))
            for part, tensor in parts.items()
        }
        with inside(name):
            return stored_values(stored, some, torch.float32).numpy().view("<u4")

    values_rc = replace(Tensor.made("F32", shape, values, parts[scheme.codes[0]]), span=shape[1]).take(selections)

    def compute(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        import torch

        from nemo_elastic.nn.low_precision import nvfp4_codes, nvfp4_values

        scale = torch.from_numpy(stored_scale(stored, parts))
        was_rc = torch.from_numpy(values_rc.rows(first, last).view("<f4"))
        codes, scales = nvfp4_codes(was_rc, scale)
        changed_rc = nvfp4_values(codes, scales, scale, torch.float32) - was_rc
        was, error = (float(some.double().square().sum()) for some in (was_rc, changed_rc))
        changed[name, first] = was, error
        return Tensor.of(codes).words, Tensor.of(scales).words

    return {**parts, **codes_and_scales(scheme, values_rc, compute)}


def codes_and_scales(
    scheme: Scheme, source: Tensor, compute: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
) -> dict[str, Tensor]:
    """Codes and scales of the blocks of a matrix, by their names after the module's, both computed from its rows.

    A writer asks for the scales right after the codes: they wait for it, an eighth of the codes in size.

    Args:
        scheme: how they are stored; it has blocks.
        source: the matrix, [rows, columns].
        compute: (first, last) -> words of codes and of scales of these rows.
    """
    waiting: dict[tuple[int, int], np.ndarray] = {}

    def codes(first: int, last: int) -> np.ndarray:
        own, waiting[first, last] = compute(first, last)
        return own

    def scales(first: int, last: int) -> np.ndarray:
        held = waiting.pop((first, last), None)
        return compute(first, last)[1] if held is None else held

    rows, columns = source.shape
    return {
        scheme.codes[0]: Tensor.made(scheme.codes[1], (rows, columns // scheme.per_code), codes, source),
        scheme.scale[0]: Tensor.made(scheme.scale[1][0], (rows, columns // scheme.block), scales, source),
    }


def share_changed(changed: Changed) -> float | None:
    """Root mean square of the changes by requantizing, relative to the weights; None without requantized weights."""
    power = sum(was for was, _ in changed.values())
    return (sum(error for _, error in changed.values()) / power) ** 0.5 if power else None


def stored_scale(stored: Quantization, parts: Mapping[str, Tensor]) -> np.ndarray:
    """What codes of a weight, or its scales of blocks, are multiplied by: float32, [] or [rows, 1]."""
    scheme = stored.scheme
    value = parts[scheme.over or scheme.scale[0]].numpy().astype(np.float32)
    value = value.reshape(()) if value.size == 1 else value.reshape(-1, 1)
    return np.asarray(np.float32(1) / value if scheme.inverse else value)


def stored_values(stored: Quantization, parts: Mapping[str, Tensor], dtype: torch.dtype) -> torch.Tensor:
    """The dequantized weight [rows, columns]."""
    import torch

    from nemo_elastic.nn.low_precision import fp8_values, nvfp4_values

    scheme = stored.scheme
    codes, scale = parts[scheme.codes[0]].torch(copy=False), torch.from_numpy(stored_scale(stored, parts))
    if not scheme.block:
        return fp8_values(codes, scale, dtype)
    blocks = parts[scheme.scale[0]]
    if wrong := bad_scales(blocks.words):  # the first time that they are read
        raise ElasticError(f"{wrong} scales of blocks are negative or not a number; nemo-elastic verify finds damage")
    return nvfp4_values(codes, blocks.torch(copy=False), scale, dtype)


# ------------------------------------------------------------------ found in a folder


def find_quantized(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], layout: str
) -> dict[str, Quantization]:
    """Weights of low precision among the tensors of a folder: how they are stored.

    Args:
        tensors: of the folder, by name.
        wanted: the model's weights and their shapes.
        layout: that the folder says it has, one of `LAYOUTS`.
    """
    out = {}
    for name, shape in wanted.items():
        module = name.removesuffix(WEIGHT)
        for scheme in (scheme for scheme in SCHEMES if scheme.layout == layout):
            codes, dtype = scheme.codes
            if module + codes not in tensors or tensors[module + codes].dtype != dtype:
                continue
            if codes != WEIGHT and name in tensors:
                raise ElasticError(f"tensors {name!r} and {module + codes!r} have the same weight")
            parts = {part: tensors[module + part] for part in scheme.names if module + part in tensors}
            _check(scheme, parts, shape, module)
            by_row = not scheme.block and math.prod(parts[scheme.scale[0]].shape) > 1
            out[name] = Quantization(scheme, scheme.activations in parts, by_row)
            break
    return out


def check_no_others(names: Iterable[str], layout: str | None) -> None:
    """Check that no tensor is of a weight of low precision that has no codes, or that the folder says nothing of.

    Args:
        names: of a folder's tensors that are not the model's.
        layout: that the folder says it has; None for full precision.
    """
    has = [scheme for scheme in SCHEMES if scheme.layout == layout]
    known = {part for scheme in SCHEMES for part in scheme.names} - {WEIGHT}
    for name in sorted(names):
        last = name.rpartition(".")[2]
        if last in known and layout is None:
            raise ElasticError(
                f"tensor {name!r} is in low precision, but the folder's quantization_config does not say so"
            )
        if last in known:
            codes = " or ".join(f"{scheme.codes[0]} in {scheme.codes[1]}" for scheme in has)
            raise ElasticError(f"tensor {name!r} has no codes; {layout} stores them as {codes}")


def bad_scales(words: np.ndarray) -> int:
    """Number of e4m3 scales that are negative or not a number, read off their words."""
    return int(np.count_nonzero((words > 0x80) | (words == 0x7F)))


def _check(scheme: Scheme, parts: Mapping[str, Tensor], shape: tuple[int, ...], module: str) -> None:
    for needed in (scheme.scale[0], scheme.over):
        if needed is not None and needed not in parts:
            raise ElasticError(f"codes of {scheme.precision} need the scale {module + needed!r}, which is missing")
    if len(shape) != 2:
        raise ElasticError(f"only matrices are quantised, not tensor {module + scheme.codes[0]!r}")
    if scheme.block and shape[1] % scheme.block:
        raise ElasticError(
            f"tensor {module + scheme.codes[0]!r}: {shape[1]} columns are not whole blocks of {scheme.block}"
        )
    for name, dtypes, shapes in _allowed(scheme, shape):
        tensor = parts.get(name)
        if tensor is None:
            continue
        if tensor.dtype not in dtypes:
            says = f"has dtype {tensor.dtype!r}; {scheme.precision} has {dtypes[0]}"
            raise ElasticError(f"tensor {module + name!r} {says}")
        if tensor.shape not in shapes:
            raise ElasticError(f"tensor {module + name!r} has shape {list(tensor.shape)}, not {list(shapes[0])}")
    for name in (scheme.over or scheme.scale[0], scheme.activations):
        if name in parts:
            _check_scale(module + name, parts[name], scheme.precision, scheme.inverse)


def _allowed(
    scheme: Scheme, shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[str, ...], tuple[tuple[int, ...], ...]]]:
    """Each of a weight's tensors: dtypes and shapes that it may have."""
    rows, columns = shape
    yield scheme.codes[0], (scheme.codes[1],), ((rows, columns // scheme.per_code),)
    one: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1))
    if scheme.block:
        yield *scheme.scale, ((rows, columns // scheme.block),)
    else:
        # ModelOpt has other names for FP8 by rows
        yield *scheme.scale, (*one, (rows, 1)) if scheme.layout == COMPRESSED else one
    if scheme.over is not None:
        yield scheme.over, ("F32",), one
    yield scheme.activations, FLOATS, one


def _check_scale(name: str, tensor: Tensor, precision: str, inverse: bool = False) -> None:
    """Raise where a scale of a whole weight is no positive number, or makes infinities of codes."""
    with np.errstate(all="ignore"):
        value = tensor.numpy().astype(np.float32)
        scale = np.float32(1) / value if inverse else value
        if not np.all((scale > 0) & np.isfinite(scale * np.float32(LARGEST[precision]))):
            raise ElasticError(
                f"tensor {name!r} is a scale that is not a positive number, or too large for {precision}"
            )


# ------------------------------------------------------------------ the key-value cache's scales


def check_cache_scales(tensors: Mapping[str, Tensor], subnet: Subnet, low: bool) -> None:
    """Check those among the tensors of a folder; `low`: it says that it has low precision."""
    layers = [named(HF_LAYER, at) for at, layer in enumerate(subnet.layers) if layer.type == ATTENTION]
    wanted = [f"{layer}mixer.{part}{name}" for layer in layers for name in CACHE for part in ("", f"{name[0]}_proj.")]
    here = [name for name in wanted if name in tensors] if low else []
    for name in here:
        tensor = tensors[name]
        if tensor.dtype not in FLOATS or math.prod(tensor.shape) != 1:
            what = f"has dtype {tensor.dtype!r} and shape {list(tensor.shape)}, not one number"
            raise ElasticError(f"scale {name!r} {what}")
        _check_scale(name, tensor, FP8)
    for name in tensors:
        if name.rpartition(".")[2] in CACHE and name not in here:
            raise ElasticError(f"tensor {name!r} is no part of this model")


def cache_of_member(names: Iterable[str], subnet: Subnet, member: Subnet) -> dict[str, str]:
    """Cache scales of a member's layers: their names in the member, and in the source.

    A member has some of a layer's heads, so the layer's number fits it, too.
    """
    scales = [name for name in names if name.rpartition(".")[2] in CACHE]
    index = {layer.index: at for at, layer in enumerate(subnet.layers)}
    out = {}
    for at, layer in enumerate(member.layers) if scales else ():
        old, new = (named(HF_LAYER, i) for i in (index[layer.index], at))
        out |= {new + name.removeprefix(old): name for name in scales if name.startswith(old)}
    return out


def has_cache(config: Mapping[str, Any] | None, names: Iterable[str]) -> bool:
    """Whether a folder's cache is in FP8, by what its `quantization_config` says, or by the names of its tensors."""
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
