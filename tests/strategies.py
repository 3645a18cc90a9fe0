# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for shapes: any small parent, any member of it, any chain of nested members.

The parents are tiny but awkward on purpose: odd widths, odd head counts per group, several groups, stripes, patterns
in which a type of layer is missing or comes twice in a row.
"""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import strategies as st

from nemo_elastic.core.family import NORMS, Layer, Parent, Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, all_axes, layer_axes


@st.composite
def parents(
    draw: st.DrawFn,
    *,
    pattern: st.SearchStrategy[str] | None = None,
    max_layers: int = 5,
    tied: bool | None = None,
    max_stripes: int = 3,
    kinds: str = "M-*E",
    optional: bool = False,
    norms: bool = False,
) -> Parent:
    """A small parent.

    Args:
        draw: from hypothesis.
        pattern: patterns to draw from; any of up to `max_layers` layers by default.
        max_layers: longest default pattern.
        tied: whether head and embedding are one; drawn by default.
        max_stripes: largest number of blocks of the FFN axis.
        kinds: symbols that the default pattern has; megatron-core of NeMo has no experts in a hybrid.
        optional: key-value heads and top-k may be axes, as they are where a block lists them.
        norms: norms of members may be over the parent's width, as they are in a rotated family.
    """
    upto = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    stripes, groups, kv_heads = upto(1, max_stripes), upto(1, 3), upto(1, 3)
    symbols = draw(pattern if pattern is not None else st.text(kinds, min_size=1, max_size=max_layers))
    own = draw(_experts(max_stripes)) if "E" in symbols else {}
    if optional and "E" in symbols and draw(st.booleans()):
        own["top_k_stripes"] = 1
    if optional and "*" in symbols and draw(st.booleans()):
        own["kv_heads_stripes"] = upto(1, 2)
        kv_heads = int(own["kv_heads_stripes"]) * upto(1, 2)
    return Parent(
        pattern=symbols,
        hidden=upto(2, 12),
        vocab=upto(3, 17),
        ffn=stripes * upto(1, 5),
        mamba_heads=groups * upto(1, 4),
        mamba_head_dim=upto(1, 5),
        mamba_groups=groups,
        state=upto(1, 4),
        conv_kernel=upto(2, 4),
        attention_heads=kv_heads * upto(1, 4),
        kv_heads=kv_heads,
        attention_head_dim=upto(1, 4),
        tied=draw(st.booleans()) if tied is None else tied,
        norm=draw(st.sampled_from(NORMS)) if norms else NORMS[0],
        norm_eps=draw(st.sampled_from([1e-5, 1e-2])),  # a large one shows where an epsilon is scaled wrongly
        ffn_stripes=stripes,
        **own,
    )


@st.composite
def _experts(draw: st.DrawFn, max_stripes: int) -> dict[str, float]:
    """Sizes of experts, with a latent width or without."""
    upto = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    stripes = {axis: upto(1, max_stripes) for axis in ("experts", "expert_ffn", "shared_ffn")}
    sizes: dict[str, float] = {axis: blocks * upto(1, 4) for axis, blocks in stripes.items()}
    sizes |= {f"{axis}_stripes": blocks for axis, blocks in stripes.items()}
    sizes |= {"top_k": upto(1, min(3, int(sizes["experts"]))), "routed_scaling": draw(st.sampled_from([1.0, 2.5]))}
    return sizes | ({"latent": upto(1, 6)} if draw(st.booleans()) else {})


@st.composite
def subnets(
    draw: st.DrawFn,
    parent: Parent,
    *,
    axes: Collection[str] = all_axes(),
    upper: Subnet | None = None,
    per_layer: bool | None = None,
) -> Subnet:
    """A member of `parent`, from a single channel of a single layer up to the whole.

    Args:
        draw: from hypothesis.
        parent: the parent.
        axes: axes that may be cut; the others stay as they are in `upper`.
        upper: the member must be nested in this one; the whole parent by default.
        per_layer: True: every layer has its own widths; False: one width an axis (the smaller of it and `upper`'s in
            each layer); drawn for each axis by default.
    """
    upper = upper or parent.full
    own = {
        axis: draw(st.booleans()) if per_layer is None else per_layer for axis in layer_axes() if axis in parent.axes
    }
    shared = {
        axis: draw(_widths(parent, axis, parent.axis(axis).size)) for axis in layer_axes() if axis in parent.axes
    }

    def width(axis: str, at_most: int) -> int:
        if axis not in axes:
            return at_most
        return draw(_widths(parent, axis, at_most)) if own[axis] else min(shared[axis], at_most)

    kept = list(upper.layers)
    if DEPTH in axes:
        keep = draw(st.lists(st.booleans(), min_size=len(kept), max_size=len(kept)).filter(any))
        kept = [layer for layer, stays in zip(kept, keep) if stays]
    layers = []
    for layer in kept:
        choices = {axis: width(axis, whole) for axis, whole in parent.choices(layer).items()}
        layers.append(Layer(layer.index, layer.type, parent.widths(layer.type, choices)))
    hidden = draw(st.integers(1, upper.hidden)) if HIDDEN in axes else upper.hidden
    return Subnet(hidden, tuple(layers)).validate(parent)


def _widths(parent: Parent, axis: str, at_most: int) -> st.SearchStrategy[int]:
    blocks, least = parent.axis(axis).blocks, parent.axis(axis).least
    return st.integers(-(-least // blocks), at_most // blocks).map(lambda k: k * blocks)


@st.composite
def chains(draw: st.DrawFn, parent: Parent, length: int = 3) -> list[Subnet]:
    """Members nested in each other, largest first, starting with the parent itself."""
    members = [parent.full]
    while len(members) < length:
        members.append(draw(subnets(parent, upper=members[-1])))
    return members


@st.composite
def parents_and_subnets(
    draw: st.DrawFn,
    *,
    axes: Collection[str] = all_axes(),
    per_layer: bool | None = None,
    pattern: st.SearchStrategy[str] | None = None,
    max_layers: int = 5,
    kinds: str = "M-*E",
    optional: bool = False,
    norms: bool = False,
) -> tuple[Parent, Subnet]:
    """A parent and one member of it; see `parents` and `subnets`."""
    parent = draw(parents(pattern=pattern, max_layers=max_layers, kinds=kinds, optional=optional, norms=norms))
    return parent, draw(subnets(parent, axes=axes, per_layer=per_layer))
