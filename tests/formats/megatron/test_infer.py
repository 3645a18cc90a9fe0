# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The shape of a model from the names and sizes of its tensors alone; with files around them: `test_folder.py`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings

from nemo_elastic.core.family import Parent, Subnet, largest
from nemo_elastic.core.kinds.registry import KINDS, striped_axes
from nemo_elastic.core.layout import megatron_shape, megatron_tensors
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.infer import infer
from tests.shapes import LATENT, MOE, PARENT
from tests.strategies import parents, parents_and_subnets

#: what of a mixture of experts no tensor tells -> its name in a context
ROUTING = {size: KINDS["moe"].megatron[size] for size in ("top_k", "routed_scaling")}


def stored(parent: Parent, member: Subnet | None = None) -> dict[str, tuple[int, ...]]:
    """Sizes as a checkpoint has them, layers counted in the member."""
    member = member or parent.full
    places = {layer.index: at for at, layer in enumerate(member.layers)}
    out = {}
    for name, together in megatron_tensors(parent, member).items():
        layer = together[0].layer
        if layer is not None:
            name = name.replace(f"layers.{layer.index}.", f"layers.{places[layer.index]}.")
        out[name] = megatron_shape(together)
    return out


def context(parent: Parent, **other: Any) -> dict[str, Any]:
    return {
        "layernorm_epsilon": parent.norm_eps,
        "mamba_num_groups": parent.mamba_groups,
        "kv_channels": parent.attention_head_dim,
        "share_embeddings_and_output_weights": parent.tied,
        **{name: parent.size(size) for size, name in ROUTING.items() if parent.has(size)},
        **other,
    }


def same(actual: Parent, parent: Parent) -> bool:
    """Equal in all that a layer tells; sizes of kinds that the pattern has not got are nobody's."""
    stripes = set(striped_axes().values())  # a layout, of which no tensor tells
    sizes = {term for kind in parent.kinds for term in (*kind.widths, *kind.rigid)} - stripes
    return actual.pattern == parent.pattern and all(
        actual.size(t) == parent.size(t) for t in ("hidden", "vocab", *sizes)
    )


@settings(max_examples=40)
@given(parent=parents())
def test_any_model_is_read_off_its_tensors(parent: Parent) -> None:
    assume(parent.sizes.get("top_k") != 1)
    shape, held, names = infer(stored(parent), context(parent), "here")
    assert same(shape, parent) and held == shape.full and all(ours == theirs for ours, theirs in names.items())
    assert (shape.tied, shape.norm_eps) == (parent.tied, parent.norm_eps)


@settings(max_examples=40)
@given(case=parents_and_subnets(per_layer=True, optional=True))
def test_widths_that_differ_between_layers_are_a_member_of_the_widest(case: tuple[Parent, Subnet]) -> None:
    parent, member = case
    assume(member.layers and parent.sizes.get("top_k") != 1)
    shape, held, _ = infer(stored(parent, member), context(parent), "here")
    assert shape.hidden == held.hidden == member.hidden
    # key-value heads are an axis where tensors show that they differ; top-k no tensor shows
    axes = {axis for layer in held.layers for axis in layer.widths}
    assert len(set(member.widths("kv_heads"))) < 2 or "kv_heads" in axes
    report = [(x.type, {axis: n for axis, n in x.widths.items() if axis in axes}) for x in member.layers]
    assert [(layer.type, layer.widths) for layer in held.layers] == report
    assert largest(report).items() <= shape.sizes.items()


@pytest.mark.parametrize(
    ("given", "kv_heads"),
    [
        ({"kv_channels": 2}, 4),
        ({"kv_channels": None, "num_query_groups": 2}, 2),
        ({"kv_channels": None, "num_attention_heads": 8}, 4),
    ],
)
def test_how_keys_are_shared_is_asked_of_the_context(given: dict[str, Any], kv_heads: int) -> None:
    shape, _, _ = infer(stored(PARENT), context(PARENT, **given), "here")
    assert (shape.kv_heads, shape.kv_heads * shape.attention_head_dim) == (kv_heads, 8)


def test_groups_of_mamba_follow_from_the_state_where_they_are_not_given() -> None:
    shape, _, _ = infer(stored(PARENT), context(PARENT, mamba_num_groups=None, mamba_state_dim=4), "here")
    assert (shape.mamba_groups, shape.state) == (2, 4)


def broken(name: str, size: tuple[int, ...] | None) -> dict[str, tuple[int, ...]]:
    sizes = {n: s for n, s in stored(PARENT).items() if n != name}
    return sizes if size is None else sizes | {name: size}


UP, QKV = "decoder.layers.1.mlp.linear_fc1.weight", "decoder.layers.3.self_attention.linear_qkv.weight"


@pytest.mark.parametrize(
    ("sizes", "given", "match"),
    [
        ({}, {}, "has no tensors of a model"),
        (stored(PARENT), {"num_layers": 7}, r"has 5 layers \(0 to 4\), but its context says 7"),
        (broken(UP, None), {}, rf"tensor {UP} is missing"),
        (broken(UP, (16,)), {}, rf"tensor {UP} has shape \[16\]; it needs 2 dimensions"),
        (broken("decoder.layers.5.odd", (3,)), {}, "layer 5 is no layer of a Nemotron-H"),
        (
            stored(PARENT),
            {"activation_func": {"_target_": "torch._C._nn.gelu"}},
            "activation_func: 'torch._C._nn.gelu'",
        ),
        (broken(UP, (16, 17)), {}, rf"tensor '{UP}' has shape \[16, 17\], not \[16, 16\]"),
        (broken(QKV, (8, 16)), {}, "does not fit the rest of its layer|heads that fit"),
        (broken("decoder.layers.1.odd", (3,)), {}, r"tensor 'decoder\.layers\.1\.odd' is no part of this model"),
        (broken(f"decoder.layers.{'1' * 5000}.odd", (3,)), {}, r"tensor 'decoder\.layers\.111"),
        (broken("output_layer.weight", None), {}, r"tensor output_layer\.weight is missing"),
        (stored(PARENT), {"layernorm_epsilon": "small"}, r"layernorm_epsilon: 'small' is not allowed; a number"),
        (stored(PARENT), {"mamba_num_groups": 3}, r"mamba_num_groups: 3 is not allowed; a divisor of the 8 rows of B"),
        (stored(PARENT), {"kv_channels": 3}, r"heads that fit 8 rows of keys and \[16\] of queries"),
    ],
)
def test_what_is_no_whole_nemotron_h_is_reported_with_where_it_is(
    sizes: Any, given: dict[str, Any], match: str
) -> None:
    with pytest.raises(ElasticError, match=rf"^here: (.*)({match})"):
        infer(sizes, context(PARENT, **given), "here")


def test_layers_that_differ_in_what_all_must_share_are_reported() -> None:
    other = replace(PARENT, conv_kernel=PARENT.conv_kernel - 1)
    mixed = {n: s for n, s in stored(PARENT).items() if "layers.2." not in n}
    mixed |= {n: s for n, s in stored(other).items() if "layers.2." in n}
    with pytest.raises(ElasticError, match=r"layers 0 and 2 differ in conv_kernel: 4 and 3"):
        infer(mixed, context(PARENT), "here")


def test_a_head_that_is_the_embedding_is_in_no_checkpoint() -> None:
    silent = context(PARENT, share_embeddings_and_output_weights=None)
    assert infer(broken("output_layer.weight", None), silent, "here")[0].tied
    assert not infer(stored(PARENT), silent, "here")[0].tied


def stacked(parent: Parent, experts: int = 8) -> dict[str, tuple[int, ...]]:
    """Sizes of a model with experts as a checkpoint has them: all experts of a layer in one tensor."""
    out = {}
    for name, size in stored(parent).items():
        each = re.sub(r"local_experts\.\d+", "experts", name)
        out[each] = size if each == name else (experts, *size)
    return out


@pytest.mark.parametrize("parent", [MOE, LATENT])
def test_all_experts_of_a_layer_may_be_in_one_tensor(parent: Parent) -> None:
    shape, held, names = infer(stacked(parent), context(parent), "here")
    assert same(shape, parent) and held == shape.full and shape.size("experts_stripes") == 1
    name = "decoder.layers.1.mlp.experts.local_experts.7.linear_fc1.weight"
    assert names[name] == name


@pytest.mark.parametrize(
    ("sizes", "given", "match"),
    [
        (stacked(MOE, 9), {}, r"local_experts\.8\.linear_fc.\.weight' is no part of this model \(and 3 more\)"),
        (
            stacked(MOE) | {f"decoder.layers.{'1' * 5000}.mlp.experts.experts.linear_fc1.weight": (8, 4, 4)},
            {},
            r"tensor 'decoder\.layers\.111",
        ),
        (stacked(MOE), {"moe_router_topk": None}, r"moe_router_topk: missing; a number of experts"),
        (stacked(MOE), {"moe_router_topk": 1}, r"moe_router_topk: 1 is not allowed; 2 or more"),
        (stacked(MOE), {"moe_router_load_balancing_type": "sinkhorn"}, "load_balancing_type: 'sinkhorn'"),
        (stacked(MOE), {"moe_router_topk": 9}, r"parent\.experts|experts: 8 is not allowed; must be at least 9"),
    ],
)
def test_other_mixtures_of_experts_are_reported(sizes: Any, given: dict[str, Any], match: str) -> None:
    with pytest.raises(ElasticError, match=rf"^here: (.*)({match})"):
        infer(sizes, context(MOE, **given), "here")
