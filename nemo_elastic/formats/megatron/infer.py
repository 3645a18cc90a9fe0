# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The shape of a Nemotron-H, read off the names and sizes of its Megatron tensors.

Tensors cannot be wrong about themselves, contexts can: ModelOpt's pruning leaves a layer pattern that is too long. So
a context is asked only for what no size tells: how many groups share keys, values, B and C, and the norm's epsilon.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from nemo_elastic.core.family import Layer, Parent, Subnet, largest
from nemo_elastic.core.kinds.attention import HEAD_DIM, KEY_VALUE, KV_HEADS, KV_STRIPES, QUERY
from nemo_elastic.core.kinds.mamba import SHARED
from nemo_elastic.core.kinds.moe import MOE, SCALING, TOP_K
from nemo_elastic.core.kinds.record import MEGATRON_LAYER, Kind, Part
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.layout import by_name, fused, megatron_shape, megatron_tensors, named
from nemo_elastic.core.prediction import is_mtp
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.adapter import whole_sizes
from nemo_elastic.formats.checkpoint import check_exactly

from .shape import STORED, check_config, check_kinds, has_experts

Sizes = Mapping[str, tuple[int, ...]]

_LAYER = re.compile(r"decoder\.layers\.(\d{1,9})\.(.+)")
#: in the names of tensors of a layer with experts
_GATE = ".mlp.router."
#: number of one tensor among several
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def infer(stored: Sizes, settings: Mapping[str, Any], where: str) -> tuple[Parent, Subnet, dict[str, str]]:
    """Read a shape off the sizes of tensors by their stored names; `settings` are fields of the SSMConfig.

    Gives the model as a parent of its own, with the largest width of each axis; the member of it that the model is
    (the parent itself, except where widths differ between layers); and our Megatron name -> the checkpoint's, which
    differ where its layers are not numbered from zero. Layers that predict further tokens are ignored.
    """
    with inside(where):
        check_config(settings.get, "context: model.config", any(_GATE in name for name in stored), STORED)
        model = {name: size for name, size in stored.items() if not is_mtp(name)}
        return _infer(whole_sizes(model), settings)


def _infer(sizes: Sizes, settings: Mapping[str, Any]) -> tuple[Parent, Subnet, dict[str, str]]:
    """Parent, the member that the model is, and our Megatron name -> the checkpoint's."""
    layers: dict[int, set[str]] = defaultdict(set)
    for name in sizes:
        if match := _LAYER.fullmatch(name):
            layers[int(match[1])].add(match[2])
    numbers = sorted(layers)
    if not numbers:
        raise ElasticError("has no tensors of a model (decoder.layers.0. and so on)")
    count = settings.get("num_layers")
    if isinstance(count, int) and count != len(numbers):
        raise ElasticError(f"has {len(numbers)} layers ({numbers[0]} to {numbers[-1]}), but its context says {count}")
    kinds = [_kind(i, layers[i]) for i in numbers]
    pattern = "".join(KINDS[kind].symbol for kind in kinds)
    check_kinds(pattern, "layers", experts=True)
    vocab, hidden = _size(sizes, by_name("embedding").megatron, 2)
    records = [_record(kind, i, sizes) for i, kind in zip(numbers, kinds, strict=True)]
    products = {i: _products(record, i, sizes, hidden) for i, record in zip(numbers, records, strict=True)}
    rigid = _rigid(products, settings) | (_routing(settings) if has_experts(pattern) else {})
    # a size that some layers of a kind have is a size of the parent: all layers of the kind then have it
    records = [
        KINDS[record.name] if KINDS[record.name].without.keys() & rigid.keys() else record for record in records
    ]
    widths = [_widths(record, products[i], rigid) for i, record in zip(numbers, records, strict=True)]
    parent = Parent(
        pattern=pattern,
        vocab=vocab,
        hidden=hidden,
        tied=_tied(sizes, settings),
        norm_eps=_epsilon(settings),
        sizes={**rigid, **largest(zip(kinds, widths, strict=True))},
    )
    layers_kept = tuple(Layer(i, kind, width) for i, (kind, width) in enumerate(zip(kinds, widths, strict=True)))
    subnet = Subnet(parent.hidden, layers_kept).validate(parent)
    return parent, subnet, _check_names(parent, subnet, sizes, numbers)


def _kind(index: int, names: set[str]) -> str:
    """Kind of a layer by the names of its tensors, which are different for every kind."""
    templates = {MEGATRON_LAYER + _NUMBER.sub("{e}", name) for name in names}
    own_kinds = {kind.name for kind in KINDS.values() if any(row.megatron in templates for row in kind.rows)}
    if len(own_kinds) != 1:
        some = ", ".join(sorted(names)[:3])
        raise ElasticError(f"layer {index} is no layer of a Nemotron-H ({', '.join(KINDS)}): {some}")
    return own_kinds.pop()


def _record(name: str, index: int, sizes: Sizes) -> Kind:
    """The variant of a kind (`Kind.without`) with the most tensors of this layer."""

    def matches(kind: Kind) -> tuple[int, int, int]:  # ties: the one with the fewest axes
        return sum(named(row.megatron, index, 0) in sizes for row in kind.rows), -len(kind.rows), -len(kind.axes)

    return max(KINDS[name].variants, key=matches)


def _products(kind: Kind, index: int, sizes: Sizes, hidden: int) -> dict[Part, int]:
    """Sizes of the parts of a layer's dimensions, solved from those of its tensors.

    The size of a dimension is the sum of its parts: one that has a single unknown part gives that.
    """
    known: dict[Part, int] = {("hidden",): hidden, ("one",): 1}
    equations: list[tuple[str, Counter[Part], int]] = []
    for template, together in {row.megatron: fused(row, kind) for row in kind.rows}.items():
        name = named(template, index, 0)
        size = _size(sizes, name, len(together[0].dims))
        for dim, total in enumerate(size):
            parts = Counter(part for row in (together if dim == 0 else together[:1]) for part in row.dims[dim])
            equations.append((name, parts, total))
    solved = True
    while solved:
        solved = False
        for name, parts, total in equations:
            unknown = [part for part in parts if part not in known]
            if len(unknown) != 1:
                continue
            (part,) = unknown
            left = total - sum(known[p] * count for p, count in parts.items() if p != part)
            known[part], odd = divmod(left, parts[part])
            if left <= 0 or odd:
                what = f"tensor {name} has shape {list(sizes[name])}"
                raise ElasticError(f"{what}, which does not fit the rest of its layer")
            solved = True
    return known


def _rigid(products: Mapping[int, Mapping[Part, int]], settings: Mapping[str, Any]) -> dict[str, int]:
    """Fields of `Parent` that all layers share; without a layer that tells one, it is left out."""

    def same(part: Part) -> int | None:
        values = [(i, parts[part]) for i, parts in products.items() if part in parts]
        for index, value in values:
            if value != values[0][1]:
                differ = f"layers {values[0][0]} and {index} differ in {' x '.join(part)}"
                raise ElasticError(f"{differ}: {values[0][1]} and {value}")
        return values[0][1] if values else None

    rigid: dict[str, int] = {}
    # sizes give only the product of groups and state, and of heads and their size
    taps, groups = same(("conv_kernel",)), same(SHARED)
    keys = {parts[KEY_VALUE] for parts in products.values() if KEY_VALUE in parts}
    if taps is not None:
        rigid["conv_kernel"] = taps
    if groups is not None:
        rigid |= _groups(groups, settings)
    if keys:
        rigid |= _attention(keys, {parts[QUERY] for parts in products.values() if QUERY in parts}, settings)
    return rigid


def _routing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a mixture of experts no tensor tells."""
    megatron = KINDS[MOE].megatron
    scaling = settings.get(megatron[SCALING])
    top = settings.get(megatron[TOP_K])
    if isinstance(top, bool) or not isinstance(top, int):
        raise bad(f"context: model.config.{megatron[TOP_K]}", top, "a number of experts")
    return {TOP_K: top, SCALING: 1.0 if scaling is None else scaling}


def _widths(kind: Kind, products: Mapping[Part, int], rigid: Mapping[str, int]) -> dict[str, int]:
    """Widths of a layer: a part of one term is that, of a part of two the other one is known."""
    terms = dict(rigid)
    for part, size in sorted(products.items(), key=lambda item: len(item[0])):
        unknown = [term for term in part if term not in terms]
        if len(unknown) == 1:
            terms[unknown[0]] = size // math.prod(terms[term] for term in part if term in terms)
    return {axis: terms[axis] for axis in kind.widths}


def _groups(shared: int, settings: Mapping[str, Any]) -> dict[str, int]:
    """Groups and state of Mamba: the tensors give only their product."""
    groups, state = settings.get("mamba_num_groups"), settings.get("mamba_state_dim")
    if groups is None and isinstance(state, int) and state > 0:
        groups = shared // state
    if not isinstance(groups, int) or groups < 1 or shared % groups:
        raise bad("context: model.config.mamba_num_groups", groups, f"a divisor of the {shared} rows of B")
    return {"mamba_groups": groups, "state": shared // groups}


def _attention(keys: set[int], queries: set[int], settings: Mapping[str, Any]) -> dict[str, int]:
    """Key-value heads and channels per head: the tensors give only their product.

    Where layers have not as many of these heads, they are no size of the model but widths.

    Pruning takes heads away, never a part of one: what `kv_channels` says holds. Where it is not said, the number of
    groups is the next best, and then the number of heads.
    """
    heads, groups, shared = settings.get("num_attention_heads"), settings.get("num_query_groups"), math.gcd(*keys)
    if len(keys) > 1:
        groups = heads = None  # which of the layers' would they be
    ways = {
        "kv_channels": settings.get("kv_channels"),
        "num_query_groups": shared // groups if isinstance(groups, int) and groups > 0 else None,
        "num_attention_heads": max(queries) // heads if isinstance(heads, int) and heads > 0 else None,
    }
    for size in ways.values():
        if isinstance(size, int) and size > 0 and not any(n % size for n in keys | queries):
            if len(keys) > 1:
                return {HEAD_DIM: size, KV_STRIPES: 1}
            if not any(q % shared for q in queries):
                return {HEAD_DIM: size, KV_HEADS: shared // size}
    given, rows = {name: settings.get(name) for name in ways}, " or ".join(map(str, sorted(keys)))
    raise bad("context: model.config", given, f"heads that fit {rows} rows of keys and {sorted(queries)} of queries")


def _tied(sizes: Sizes, settings: Mapping[str, Any]) -> bool:
    """The head is the embedding: then no checkpoint has it."""
    head = by_name("head").megatron
    if head in sizes:
        return False
    if settings.get("share_embeddings_and_output_weights") is False:
        raise ElasticError(f"tensor {head} is missing")
    return True


def _check_names(parent: Parent, subnet: Subnet, sizes: Sizes, numbers: list[int]) -> dict[str, str]:
    """Check that the tensors are exactly the model's, in its shapes; give our name -> theirs."""
    out: dict[str, str] = {}
    wanted: dict[str, tuple[int, ...]] = {}
    for ours, together in megatron_tensors(parent, subnet).items():
        match = _LAYER.fullmatch(ours)
        out[ours] = f"decoder.layers.{numbers[int(match[1])]}.{match[2]}" if match else ours
        wanted[out[ours]] = megatron_shape(together)
    check_exactly(wanted, sizes)
    return out


def _size(sizes: Sizes, name: str, dims: int) -> tuple[int, ...]:
    size = sizes.get(name)
    if size is None:
        raise ElasticError(f"tensor {name} is missing")
    if len(size) != dims or not all(size):
        raise ElasticError(f"tensor {name} has shape {list(size)}; it needs {dims} dimensions")
    return size


def _epsilon(settings: Mapping[str, Any]) -> float:
    value = settings.get("layernorm_epsilon")
    try:
        return float(value)  # pyright: ignore[reportArgumentType]  # YAML has 1e-5 as a text
    except (TypeError, ValueError, OverflowError):
        raise bad("context: model.config.layernorm_epsilon", value, "a number") from None
