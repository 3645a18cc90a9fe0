# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The shape of a Nemotron-H, read off the names and sizes of its Megatron tensors.

Tensors cannot be wrong about themselves, contexts can: ModelOpt's pruning leaves a layer pattern that is too long. So
a context is asked only for what no size tells: how many groups share keys, values, B and C, and the norm's epsilon.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.family import ATTENTION, LAYER_AXES, MAMBA, MLP, SYMBOL, Layer, Parent, Subnet
from nemo_elastic.layout import BY_NAME, tensors

from .shape import check_config

Sizes = Mapping[str, tuple[int, ...]]

#: megatron-core saves these in parts, so that they can be resharded: suffixes in storage order
PARTS = {
    "in_proj.weight": ("z", "x", "B", "C", "dt"),
    "conv1d.weight": ("x", "B", "C"),
    "conv1d.bias": ("x", "B", "C"),
}
#: layer type -> the tensor that only it has
_MARKS = {MAMBA: "mixer.in_proj.weight", MLP: "mlp.linear_fc1.weight", ATTENTION: "self_attention.linear_qkv.weight"}
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_PART = re.compile(rf"(.*\.(?:{'|'.join(re.escape(end) for end in PARTS)}))\.(\w+)")


def parts_of(name: str) -> tuple[str, ...]:
    """Names under which megatron-core stores the parts of a tensor; none where it is stored whole."""
    return next((tuple(f"{name}.{p}" for p in parts) for end, parts in PARTS.items() if name.endswith("." + end)), ())


def whole_sizes(stored: Sizes) -> dict[str, tuple[int, ...]]:
    """Sizes by the names that the model has: parts are put together.

    Raises:
        ElasticError: some parts of a tensor are there and others are not.
    """
    out: dict[str, tuple[int, ...]] = {}
    for name, size in stored.items():
        part = _PART.fullmatch(name)
        parts = parts_of(part[1]) if part else ()
        if part is None or name not in parts:
            out[name] = size
            continue
        for other in parts:
            if not stored.get(other):
                raise ElasticError(f"tensor {other} is missing")
        out[part[1]] = (sum(stored[other][0] for other in parts), *size[1:])
    return out


def infer(stored: Sizes, settings: Mapping[str, Any], where: str) -> tuple[Parent, Subnet, dict[str, str]]:
    """Read a shape off tensors.

    Args:
        stored: name of a tensor as megatron-core stores it -> its size.
        settings: fields of the SSMConfig.
        where: the checkpoint, for errors.

    Returns:
        The model as a parent of its own, with the largest width of each axis; the member of it that it is: the parent
        itself, except where widths differ between layers; and our Megatron name -> the one that the checkpoint has,
        which differ where its layers are not numbered from zero on.

    Raises:
        ElasticError: no whole Nemotron-H, or a context that does not fit its tensors.
    """
    try:
        check_config(settings.get, "context: model.config")
        return _infer(whole_sizes(stored), settings)
    except ElasticError as exc:
        raise ElasticError(f"{where}: {exc}") from None


def _infer(sizes: Sizes, settings: Mapping[str, Any]) -> tuple[Parent, Subnet, dict[str, str]]:
    layers: dict[int, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, size in sizes.items():
        if match := _LAYER.fullmatch(name):
            layers[int(match[1])][match[2]] = size
    numbers = sorted(layers)
    if not numbers:
        raise ElasticError("has no tensors of a model (decoder.layers.0. and so on)")
    told = settings.get("num_layers")
    if isinstance(told, int) and told != len(numbers):
        raise ElasticError(f"has {len(numbers)} layers ({numbers[0]} to {numbers[-1]}), its context says {told}")
    kinds = [_kind(i, layers[i]) for i in numbers]
    embedding = _size(sizes, BY_NAME["embedding"].megatron, 2)
    rigid, widths = _widths(sizes, dict(zip(numbers, kinds, strict=True)), settings)
    parent = Parent(
        pattern="".join(SYMBOL[kind] for kind in kinds),
        vocab=embedding[0],
        hidden=embedding[1],
        tied=_tied(sizes, settings),
        norm_eps=_number(settings, "layernorm_epsilon"),
        **rigid,
        **{
            axis: max(own[field] for own, k in zip(widths, kinds, strict=True) if k == kind)
            for axis, (kind, field) in LAYER_AXES.items()
            if kind in kinds
        },
    )
    own = tuple(Layer(i, kind, **width) for i, (kind, width) in enumerate(zip(kinds, widths, strict=True)))
    held = Subnet(parent.hidden, own).validate(parent)
    return parent, held, _check_names(parent, held, sizes, numbers)


def _kind(index: int, layer: Sizes) -> str:
    found = [kind for kind, mark in _MARKS.items() if mark in layer]
    if len(found) != 1:
        names = ", ".join(sorted(layer)[:3])
        raise ElasticError(
            f"layer {index} is no layer of a Nemotron-H, of which each is Mamba, MLP or attention: {names}"
        )
    return found[0]


def _widths(
    sizes: Sizes, kinds: Mapping[int, str], settings: Mapping[str, Any]
) -> tuple[dict[str, int], list[dict[str, int]]]:
    """Fields of `Parent` that hold for all layers, and the widths of each, as fields of `Layer`.

    Args:
        sizes: of all tensors.
        kinds: number of a layer in the checkpoint -> its type.
        settings: fields of the SSMConfig.
    """

    def size(index: int, name: str, dims: int) -> tuple[int, ...]:
        return _size(sizes, f"decoder.layers.{index}.{name}", dims)

    mamba, attention = ([i for i, kind in kinds.items() if kind == k] for k in (MAMBA, ATTENTION))
    inner = {i: size(i, "mixer.out_proj.weight", 2)[1] for i in mamba}
    query = {i: size(i, "self_attention.linear_proj.weight", 2)[1] for i in attention}
    rigid: dict[str, int] = {}
    if mamba:
        conv = {i: size(i, "mixer.conv1d.weight", 3) for i in mamba}
        rigid |= _groups(_same("rows of B and C", {i: (conv[i][0] - inner[i]) // 2 for i in mamba}), settings)
        rigid |= {"conv_kernel": _same("taps of the convolution", {i: conv[i][2] for i in mamba})}
    if attention:
        fused = {i: size(i, "self_attention.linear_qkv.weight", 2)[0] for i in attention}
        keys = _same("rows of keys", {i: (fused[i] - query[i]) // 2 for i in attention})
        rigid |= _attention(keys, set(query.values()), settings)
    widths = []
    for i, kind in kinds.items():
        if kind == MLP:
            widths.append({"ffn": size(i, "mlp.linear_fc2.weight", 2)[1]})
        elif kind == ATTENTION:
            widths.append({"heads": query[i] // rigid["attention_head_dim"]})
        else:
            heads = size(i, "mixer.A_log", 1)[0]
            widths.append({"heads": heads, "head_dim": inner[i] // heads})
    return rigid, widths


def _groups(shared: int, settings: Mapping[str, Any]) -> dict[str, int]:
    """Groups and state of Mamba, of which the tensors tell the product."""
    groups, state = settings.get("mamba_num_groups"), settings.get("mamba_state_dim")
    if groups is None and isinstance(state, int) and state > 0:
        groups = shared // state
    if not isinstance(groups, int) or groups < 1 or shared % groups:
        raise bad("context: model.config.mamba_num_groups", groups, f"a divisor of the {shared} rows of B")
    return {"mamba_groups": groups, "state": shared // groups}


def _attention(shared: int, queries: set[int], settings: Mapping[str, Any]) -> dict[str, int]:
    """Key-value heads and the size of a head, of which the tensors tell the product.

    Pruning takes heads away, never a part of one: what `kv_channels` says holds. Where it is not said, the number of
    groups is the next best, and then the number of heads.
    """
    heads, groups = settings.get("num_attention_heads"), settings.get("num_query_groups")
    ways = {
        "kv_channels": settings.get("kv_channels"),
        "num_query_groups": shared // groups if isinstance(groups, int) and groups > 0 else None,
        "num_attention_heads": max(queries) // heads if isinstance(heads, int) and heads > 0 else None,
    }
    for size in ways.values():
        if isinstance(size, int) and size > 0 and not shared % size and not any(q % shared for q in queries):
            return {"attention_head_dim": size, "kv_heads": shared // size}
    told = {name: settings.get(name) for name in ways}
    raise bad("context: model.config", told, f"heads that fit {shared} rows of keys and {sorted(queries)} of queries")


def _tied(sizes: Sizes, settings: Mapping[str, Any]) -> bool:
    """The head is the embedding: then no checkpoint has it."""
    head = BY_NAME["head"].megatron
    if head in sizes:
        return False
    if settings.get("share_embeddings_and_output_weights") is False:
        raise ElasticError(f"tensor {head} is missing")
    return True


def _check_names(parent: Parent, held: Subnet, sizes: Sizes, numbers: list[int]) -> dict[str, str]:
    """Check that the tensors are exactly the model's, in its shapes; give our name -> theirs."""
    out: dict[str, str] = {}
    rows: dict[str, int] = defaultdict(int)
    wanted: dict[str, tuple[int, ...]] = {}
    for t in tensors(parent, held):
        match = _LAYER.fullmatch(t.megatron)
        name = f"decoder.layers.{numbers[int(match[1])]}.{match[2]}" if match else t.megatron
        rows[name] += t.shape[0]  # queries, keys and values share one
        wanted[name] = (rows[name], *t.shape[1:])
        out[t.megatron] = name
    for names, word in (
        (wanted.keys() - sizes.keys(), "is missing"),
        (sizes.keys() - wanted.keys(), "is no part of it"),
    ):
        if names:
            raise ElasticError(f"tensor {min(names)} {word}" + (f" ({len(names)} such)" if len(names) > 1 else ""))
    for name, shape in wanted.items():
        if sizes[name] != shape:
            raise ElasticError(f"tensor {name} has shape {list(sizes[name])}, not {list(shape)}")
    return out


def _size(sizes: Sizes, name: str, dims: int) -> tuple[int, ...]:
    size = sizes.get(name)
    if size is None:
        raise ElasticError(f"tensor {name} is missing")
    if len(size) != dims or not all(size):
        raise ElasticError(f"tensor {name} has shape {list(size)}; it needs {dims} dimensions")
    return size


def _same(what: str, found: Mapping[int, int]) -> int:
    first, *others = found.items()
    for index, value in others:
        if value != first[1]:
            raise ElasticError(f"layers {first[0]} and {index} differ in {what}: {first[1]} and {value}")
    return first[1]


def _number(settings: Mapping[str, Any], name: str) -> float:
    value = settings.get(name)
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        raise bad(f"context: model.config.{name}", value, "a number") from None
