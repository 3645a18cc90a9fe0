# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tensors of a folder's weights of low precision, put together and checked: codes with the scales that fit them.

Scales of a whole weight are read here. Codes and scales of blocks are not: those that are no numbers are found when
weights are loaded, and by `verify`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nemo_elastic.errors import ElasticError

from .quantized import COMPRESSED, FLOATS, SCHEMES, WEIGHT, Quantized, check_scale
from .raw import Raw

__all__ = ["check_no_others", "grouped"]


def grouped(tensors: Mapping[str, Raw], wanted: Mapping[str, tuple[int, ...]], layout: str) -> dict[str, Any]:
    """Put the tensors of each quantised weight together.

    Args:
        tensors: of a folder, by name.
        wanted: the model's tensors and their shapes.
        layout: that the folder says it has, one of `LAYOUTS`.

    Returns:
        By the name of each weight a `Quantized`, and all other tensors as they are.

    Raises:
        ElasticError: scales that do not fit their codes.
    """
    out: dict[str, Any] = dict(tensors)
    schemes = [scheme for scheme in SCHEMES if scheme.layout == layout]
    for name, shape in wanted.items():
        module = name.removesuffix(WEIGHT)
        for scheme in schemes:
            codes, dtype = scheme.codes
            if module + codes not in tensors or tensors[module + codes].dtype != dtype:
                continue
            if codes != WEIGHT and name in tensors:
                raise ElasticError(f"one weight is in tensor {name!r} and in {module + codes!r}")
            parts = {own: tensors[module + own] for own in scheme.names if module + own in tensors}
            weight = Quantized(scheme, parts, shape)
            _check(weight, module)
            for own in parts:
                del out[module + own]
            out[name] = weight
            break
    return out


def check_no_others(names: Iterable[str], layout: str | None) -> None:
    """Check that no tensor is of a weight of low precision that has no codes, or that the folder says nothing of.

    Args:
        names: of a folder's tensors that are not the model's.
        layout: that the folder says it has; None for full precision.

    Raises:
        ElasticError: one is.
    """
    has = [scheme for scheme in SCHEMES if scheme.layout == layout]
    own = {part for scheme in SCHEMES for part in scheme.names} - {WEIGHT}
    for name in sorted(names):
        last = name.rpartition(".")[2]
        if last in own and layout is None:
            raise ElasticError(f"tensor {name!r} is of low precision, and the folder's quantization_config says none")
        if last in own:
            codes = " or ".join(f"{scheme.codes[0]} in {scheme.codes[1]}" for scheme in has)
            raise ElasticError(f"tensor {name!r} has no codes beside it; {layout} has them as {codes}")


def _check(weight: Quantized, module: str) -> None:
    scheme, parts = weight.scheme, weight.parts
    for needed in (scheme.scale[0], scheme.over):
        if needed is not None and needed not in parts:
            raise ElasticError(
                f"codes of {scheme.precision} stand with scales, of which tensor {module + needed!r} is missing"
            )
    if len(weight.shape) != 2:
        raise ElasticError(f"only matrices are quantised, not tensor {module + scheme.codes[0]!r}")
    if scheme.block and weight.shape[1] % scheme.block:
        raise ElasticError(
            f"tensor {module + scheme.codes[0]!r}: {weight.shape[1]} columns are no blocks of {scheme.block}"
        )
    for name, dtypes, shapes in _allowed(weight):
        raw = parts.get(name)
        if raw is None:
            continue
        if raw.dtype not in dtypes:
            raise ElasticError(f"tensor {module + name!r} has dtype {raw.dtype!r}; {scheme.precision} has {dtypes[0]}")
        if raw.shape not in shapes:
            raise ElasticError(f"tensor {module + name!r} has shape {list(raw.shape)}, not {list(shapes[0])}")
    for name in (scheme.over or scheme.scale[0], scheme.activations):
        if name in parts:
            check_scale(module + name, parts[name], scheme.precision, scheme.inverse)


def _allowed(weight: Quantized) -> Iterator[tuple[str, tuple[str, ...], tuple[tuple[int, ...], ...]]]:
    """Each of a weight's tensors: dtypes and shapes that it may have."""
    scheme, (rows, columns) = weight.scheme, weight.shape
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
