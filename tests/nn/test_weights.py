# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting one member's weights out of another's: views, copies of their own, names, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import by_name, tensors
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.weights import LayerWeights, StoredOrder
from tests.shapes import PARENT
from tests.strategies import chains, parents

some = settings(max_examples=25)
#: a product may add in another order where its factors lie otherwise in memory
LAST_BITS = {"rtol": 1e-12, "atol": 1e-14}


def tokens_of(parent: Parent, batch: int = 2, length: int = 7) -> torch.Tensor:
    return torch.randint(parent.vocab, (batch, length), generator=torch.Generator().manual_seed(0))


@some
@given(data=st.data())
def test_a_held_member_runs_its_own_members(data):
    """Parent → middle → small: cut in one step, in two, or from a model that holds the middle one alone."""
    parent = data.draw(parents(norms=True))
    _, middle, small = data.draw(chains(parent))
    model = NemotronH.random(parent, dtype=torch.float64)
    held = model.submodel(middle)
    tokens = tokens_of(parent)
    assert sum(p.numel() for p in held.parameters()) == parameters(parent, middle)
    assert_close(held(tokens), model(tokens, middle), **LAST_BITS)
    assert_close(held(tokens, small), model(tokens, small), **LAST_BITS)
    assert_close(held.submodel(small)(tokens), model(tokens, small), **LAST_BITS)
    with torch.no_grad():
        held.get_parameter("backbone.norm_f.weight").zero_()
    assert model(tokens, middle).any(), "a submodel has memory of its own"


def test_slices_of_prefixes_are_views_and_dropped_layers_are_not_read():
    model = NemotronH.random(PARENT)
    member = PARENT.uniform(keep=(0, 3), hidden=8, mamba_heads=4)
    weights = model.weights(member)
    table = model.get_parameter("backbone.embeddings.weight")
    assert weights.embedding.data_ptr() == table.data_ptr() and weights.embedding.shape == (32, 8)
    assert weights.layers[1]["k"].data_ptr() == model.get_parameter("backbone.layers.3.mixer.k_proj.weight").data_ptr()
    assert [w.layer.index for w in weights.layers] == [0, 3]
    seen = set()
    model(tokens_of(PARENT), member, probe=lambda site, index, x: seen.add((index, site, x.shape[2:])))
    assert {index for index, _, _ in seen} == {0, 3, -1}
    assert {shape for _, site, shape in seen if site == "hidden"} == {(8,)}


def test_state_dict_has_the_names_of_hugging_face_and_round_trips():
    model = NemotronH.random(PARENT)
    names = {t.hf for t in tensors(PARENT, PARENT.full)}
    assert set(model.state_dict()) == names == {name for name, _ in model.named_parameters()}
    other = NemotronH.random(PARENT, seed=9)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens_of(PARENT)), model(tokens_of(PARENT)))
    frozen = NemotronH(PARENT, model.state_dict(), trainable=False)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_wrong_weights_are_refused_by_name():
    state = NemotronH.random(PARENT).state_dict()
    head = by_name("head").hf
    with pytest.raises(ElasticError, match=f"{head}: missing"):
        NemotronH(PARENT, {k: v for k, v in state.items() if k != head})
    with pytest.raises(ElasticError, match="bias: not of this model"):
        NemotronH(PARENT, {**state, "lm_head.bias": state[head][0]})
    with pytest.raises(ElasticError, match=r"lm_head.weight: \(32, 15\)"):
        NemotronH(PARENT, {**state, head: state[head][:, :15]})


@pytest.mark.parametrize("moved", ["rows", "both"])
def test_a_matrix_in_another_order_is_found_by_its_places(moved):
    """Channels lie anywhere in a larger matrix; what lies between them is not heard."""
    random = torch.Generator().manual_seed(0)
    stored = torch.randn(9, 7, generator=random, dtype=torch.float64)
    rows = torch.tensor([8, 0, 5, 3]) if moved != "columns" else None
    columns = torch.tensor([6, 1, 2]) if moved != "rows" else None
    own = stored[slice(None) if rows is None else rows][:, slice(None) if columns is None else columns]
    w = LayerWeights(PARENT.layer(1), {"up": stored, "down": own}, {"up": StoredOrder(rows, columns)})
    for shape in ((2, 5), (1,), ()):
        x = torch.randn(*shape, own.shape[1], generator=random, dtype=torch.float64)
        torch.testing.assert_close(w.linear("up", x), x @ own.T, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(w.linear("down", x), x @ own.T, rtol=1e-12, atol=1e-12)
