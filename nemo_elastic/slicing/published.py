# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""From a parent and smaller models that others cut from it to members of one family.

Weights of such a parent are sorted: a member is the front of each width, or of each of equal parts of it, such as the
shards of tensor-parallel ranks. A child's config gives its widths, but neither the layers that were kept nor the
number of parts: both are found by comparing weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from nemo_elastic.core import layout
from nemo_elastic.core.family import Layer, Parent, Subnet
from nemo_elastic.core.kinds.attention import KV_HEADS, KV_STRIPES
from nemo_elastic.core.kinds.mamba import MAMBA_HEADS, SHARDS
from nemo_elastic.core.kinds.record import HF_LAYER
from nemo_elastic.core.kinds.registry import striped_axes
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.checkpoint import Checkpoint, Origin, Shapes, same_words
from nemo_elastic.formats.dtypes import DTYPES, FLOATS, ITEMSIZE
from nemo_elastic.formats.folders import open_source, read_shapes
from nemo_elastic.formats.hf.config import from_hf_config
from nemo_elastic.formats.hf.writing import CONFIG
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.io.read import read_json

from .by_size import read_subnet
from .cutting import cut

__all__ = ["Child", "converts", "find_members", "member_of", "read_child", "same_cut"]

#: a smaller model: with its weights, only its config, or a file with its shape
Child = Checkpoint | Shapes | Path


#: tensor-parallel ranks of those who cut a model, at most
MOST_PARTS = 32


class _Differs(ElasticError):
    """Weights of a child are no cut of the parent's."""


def read_child(place: str | Path) -> Child:
    """Open a smaller model: a folder with its weights or without, a `config.json`, or a file with a shape."""
    path = Path(place)
    if not path.is_file():
        shapes = read_shapes(place)
        return open_source(shapes.folder) if any(shapes.folder.glob("*.safetensors")) else shapes
    config = read_json(path, strict=False)
    if not isinstance(config, dict) or "model_type" not in config:
        return path
    return Shapes(path.parent, *from_hf_config(config, str(path)), config, None, Origin(), companions=path.parent)


def find_members(whole: Checkpoint, children: Mapping[str, Child]) -> tuple[Parent, dict[str, Subnet]]:
    """The parent's shape, with the axes and blocks that the children need, and theirs by name.

    Args:
        whole: The parent, in one stripe.
        children: Smaller models by their names.

    Raises:
        ElasticError: A child is larger or has another rigid size; nothing says which layers it keeps; its weights are
            a cut in none of the ways that are known.
    """
    parent, first = _with_axes(whole.parent, children), None
    for parts in _parts(parent, children):
        blocked = replace(parent, **parts)
        opened = replace(whole, parent=blocked, subnet=blocked.full)
        try:
            return blocked, {name: _member(opened, child) for name, child in children.items()}
        except _Differs as differs:
            first = first or differs
    assert first is not None
    raise first


def _with_axes(parent: Parent, children: Mapping[str, Child]) -> Parent:
    """The parent with key-value heads as an axis where a child has fewer of them."""
    for child in children.values():
        if isinstance(child, Path):
            fewer = f'"{KV_HEADS}"' in json.dumps(read_json(child))
        else:
            fewer = child.parent.size(KV_HEADS) != parent.size(KV_HEADS)
        if fewer:
            return replace(parent, **{KV_STRIPES: 1})
    return parent


def _parts(parent: Parent, children: Mapping[str, Child]) -> Iterator[dict[str, int]]:
    """Guesses in how many parts the widths were cut, as sizes of the parent; the simplest first."""
    shapes = [child for child in children.values() if isinstance(child, Shapes)]
    sizes = {axis: size for axis, size in striped_axes().items() if parent.has(size)} | {MAMBA_HEADS: SHARDS}
    guesses = []
    for axis, size in sizes.items():
        said = {child.parent.size(size) for child in shapes if child.parent.has(size)}
        said -= set() if size == SHARDS else {1}  # 1 is what a config without the size is read as
        known = [{size: parts} for parts in sorted(said)]
        guesses.append(known or [{}, *({size: parts} for parts in _common(parent, axis, shapes))])
    for guess in sorted(product(*guesses), key=lambda one: sum(map(bool, one))):
        yield {size: parts for part in guess for size, parts in part.items()}


def _common(parent: Parent, axis: str, shapes: Sequence[Shapes]) -> list[int]:
    """Numbers of equal parts, other than the parent's, into which a width and those of narrower weights divide."""
    width, now = parent.size(axis), parent.axis(axis).blocks
    narrower = {w for child in shapes if isinstance(child, Checkpoint) for w in _of(child, axis) if w < width}
    common = math.gcd(width, *narrower)
    return [n for n in range(1, min(common, MOST_PARTS) + 1) if narrower and common % n == 0 and n != now]


def _of(child: Shapes, axis: str) -> set[int]:
    """A child's widths of an axis of layers."""
    return {layer.widths[axis] for layer in child.subnet.layers if axis in layer.widths}


def narrower(parent: Parent, member: Subnet) -> dict[str, int]:
    """Axis of layers -> the first of a member's layers that is narrower on it than the parent."""
    layers = enumerate(member.layers)
    cut = [(axis, at) for at, layer in layers for axis, w in layer.widths.items() if w < parent.size(axis)]
    return dict(reversed(cut))


def _member(whole: Checkpoint, child: Child) -> Subnet:
    """The shape of a child, whose weights are a cut in the parent's parts.

    Raises:
        _Differs: They are another cut: the first narrower layer of each axis is compared.
    """
    if isinstance(child, Path):
        return read_subnet(child, whole.parent)
    member = member_of(whole, child)
    if isinstance(child, Checkpoint):
        for at in dict.fromkeys(narrower(whole.parent, member).values()):
            if name := _difference(whole, child, at, member.layers[at]):
                raise _Differs(f"tensor {name!r} is the front neither of its widths nor of equal parts", child.folder)
    return member


def member_of(whole: Checkpoint, child: Shapes) -> Subnet:
    """The member of a parent that another folder is, by its config and, where it has fewer layers, by its weights.

    Raises:
        ElasticError: It is larger or has another rigid size; nothing says which layers it keeps.
    """
    parent, subnet = whole.parent, child.subnet
    with inside(child.folder):
        _check_rigid(parent, child.parent)
        widths = [_widths(parent, child.parent, layer) for layer in subnet.layers]
        if subnet.hidden > parent.hidden:
            raise bad("hidden", subnet.hidden, f"at most the parent's {parent.hidden}")
        if child.parent.pattern == parent.pattern:
            kept = subnet.kept
        elif isinstance(child, Checkpoint):
            kept = tuple(_kept_layers(whole, child, widths))
        else:
            unknown = (
                "a config does not say which layers were kept; give a folder with weights, or a file with a shape"
            )
            allowed = f"the parent has {parent.pattern}: {unknown}"
            raise bad(f"{CONFIG}: hybrid_override_pattern", subnet.pattern, allowed)
        layers = zip(kept, subnet.layers, widths, strict=True)
        kept_layers = tuple(Layer(i, layer.type, layer_widths) for i, layer, layer_widths in layers)
        return Subnet(subnet.hidden, kept_layers).validate(parent)


def _check_rigid(parent: Parent, child: Parent) -> None:
    """Raise where a child differs in what every member keeps; its stripes are those of the file that it came with."""
    kinds = {kind.name for kind in child.kinds if kind.symbol in child.pattern}
    rigid = {size for kind in parent.kinds if kind.name in kinds for size in kind.rigid}
    ours, theirs, blocks = parent.to_json(), child.to_json(), {*striped_axes().values(), SHARDS}
    for name in ("vocab", "tied", "norm_eps", *sorted(rigid)):
        value = theirs.get(name)
        if value != ours.get(name) and not (name in blocks and value in (None, 1)):
            raise bad(name, value, f"the parent has {ours.get(name)}, and every member keeps it")


def _widths(parent: Parent, child: Parent, layer: Layer) -> dict[str, int]:
    """Widths of a child's layer on the parent's axes."""
    if layer.type not in parent.types:
        raise bad("hybrid_override_pattern", child.pattern, f"the parent has {parent.pattern}, without {layer.type}")
    axes, widths = parent.kind(layer.type).widths, {}
    for axis in dict.fromkeys((*axes, *layer.widths)):
        width = layer.widths.get(axis, child.sizes.get(axis))
        if width is None or axis not in axes or width > parent.size(axis):
            raise bad(axis, width, f"at most the parent's {parent.sizes.get(axis)}")
        widths[axis] = width
    return widths


# ------------------------------------------------------------------ by weights


def _kept_layers(whole: Checkpoint, child: Checkpoint, widths: Sequence[Mapping[str, int]]) -> Iterator[int]:
    """The parent's layer that each layer of a child is cut from, in order: the one with the same norm.

    Where several have it, all of their tensors are compared.
    """
    first = 0
    for at, (layer, width) in enumerate(zip(child.subnet.layers, widths, strict=True)):
        same = [i for i in range(first, whole.parent.num_layers) if whole.parent.types[i] == layer.type]
        same = [i for i in same if _same_norm(whole, child, at, Layer(i, layer.type, width))]
        if len(same) > 1:
            same = [i for i in same if _difference(whole, child, at, Layer(i, layer.type, width)) is None][:1]
        if not same:
            after = f" after layer {first - 1}" if first else ""
            raise _Differs(f"layer {at}, {layer.type}, is the cut of no layer of {whole.folder}{after}")
        yield same[0]
        first = same[0] + 1


def _same_norm(whole: Checkpoint, child: Checkpoint, at: int, layer: Layer) -> bool:
    """Whether a child's layer has the first tensor of a layer of the parent: the norm in front of it."""
    row = whole.parent.kind(layer.type).rows[0]
    one = Subnet(child.subnet.hidden, (layer,))
    kept = tuple(
        layout.selection(whole.parent, row, dim, whole.subnet, one, layer.index) for dim in range(len(row.dims))
    )
    theirs, ours = (layout.named(row.hf, index) for index in (at, layer.index))
    return same_cut(theirs, child.tensors[theirs], whole.tensors[ours].take(kept))


def _difference(whole: Checkpoint, child: Checkpoint, at: int, layer: Layer) -> str | None:
    """The first tensor in which a child's layer `at` is not that layer cut from the parent; None where it is."""
    one = Subnet(child.subnet.hidden, (layer,)).validate(whole.parent)
    alone, there = (layout.named(HF_LAYER, index) for index in (0, at))
    kept = cut(whole, one, requantize=True).tensors
    kept = {there + name.removeprefix(alone): tensor for name, tensor in kept.items() if name.startswith(alone)}
    for name, tensor in sorted(kept.items(), key=lambda item: item[1].nbytes):
        if name not in child.tensors or not same_cut(name, child.tensors[name], tensor):
            return name
    return None


def same_cut(name: str, tensor: Tensor, kept: Tensor) -> bool:
    """Whether a tensor equals the cut, in its stored dtype."""
    rounded = layout.is_exact(name) and ITEMSIZE[tensor.dtype] < ITEMSIZE[kept.dtype]
    dtype = tensor.dtype if converts(kept, tensor.dtype) and not rounded else None
    try:
        return same_words(tensor, kept.cast(dtype, name))
    except ElasticError:  # the family has a number that this dtype cannot hold
        return False


def converts(tensor: Tensor, dtype: str) -> bool:
    """Whether a cut may have a tensor in another dtype."""
    return dtype in DTYPES.values() and tensor.dtype in FLOATS
