# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sorting keeps the function, and makes the most important channels the prefix of every width."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.attention import KV_HEADS
from nemo_elastic.core.kinds.moe import EXPERT_FFN
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.core.layout import tensors
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking, sort
from nemo_elastic.ranking.ranking import make_orders, names, shape
from tests.shapes import PARENT
from tests.strategies import parents

some = settings(max_examples=40)
#: axes whose channels may not leave their block: heads share what their group has
GROUPED = ("mamba_heads", "attention_heads")


def tokens_of(parent: Parent, batch: int = 2, length: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(parent.vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def shuffled(parent: Parent, seed: int) -> Ranking:
    """A ranking of random scores."""
    rng = np.random.default_rng(seed)
    scores = {name: rng.random(shape(parent, axis)) for name, axis, _ in names(parent)}
    orders = make_orders(parent, scores)
    depth = tuple(int(i) for i in rng.permutation(parent.num_layers))
    return Ranking(parent, orders, scores, depth, (None,) * parent.num_layers)


def rotating(ranking: Ranking, seed: int) -> Ranking:
    """The same with a random basis for the residual stream."""
    size = ranking.parent.hidden
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0].astype(np.float32)
    return replace(ranking, orders={**ranking.orders, HIDDEN: np.arange(size)}, basis=basis)


def unstriped(parent: Parent) -> Parent:
    """A parent as a folder tells it: no stripes."""
    return replace(parent, **{size: 1 for size in parent.sizes if size.endswith("_stripes")})


@some
@given(parent=parents(), seed=st.integers(0, 99))
def test_sorting_by_any_order_leaves_the_logits_unchanged(parent, seed):
    model = NemotronH.random(parent, seed=seed, dtype=torch.float64)
    resorted, tokens = NemotronH(parent, sort(model.state_dict(), shuffled(parent, seed))), tokens_of(parent)
    expected = model(tokens).detach()
    assert float((resorted(tokens).detach() - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@some
@given(parent=parents(tied=False), seed=st.integers(0, 99), numpy=st.booleans())
def test_a_rotated_parent_computes_the_same_and_its_norms_have_no_weight(parent, seed, numpy):
    model, ranking = NemotronH.random(parent, seed=seed, dtype=torch.float64), rotating(shuffled(parent, seed), seed)
    state = {name: value.numpy() if numpy else value for name, value in model.state_dict().items()}
    state = {name: torch.as_tensor(value) for name, value in sort(state, ranking).items()}
    for tensor in tensors(parent, parent.full):
        assert (tensor.row.dims == (((HIDDEN,),),)) == bool((state[tensor.hf] == 1).all()), tensor.hf
    tokens, expected = tokens_of(parent), model(tokens_of(parent)).detach()
    actual = NemotronH(parent, state)(tokens).detach()
    # a basis has 24 bits, so it is orthogonal to about 1e-7
    assert float((actual - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


@some
@given(data=st.data(), parent=parents(), seed=st.integers(0, 99))
def test_a_member_of_the_sorted_parent_keeps_the_top_channels(data, parent, seed):
    """The member of k channels computes what the unsorted parent computes with all but its top k zeroed."""
    model = NemotronH.random(parent, seed=seed, dtype=torch.float64)
    ranking, tokens = shuffled(parent, seed), tokens_of(parent)
    resorted = NemotronH(parent, sort(model.state_dict(), ranking))
    for axis in (a for a in parent.axes if a not in (DEPTH, EXPERT_FFN, KV_HEADS)):
        prefix = parent.axis(axis)
        k = data.draw(st.integers(-(-prefix.least // prefix.blocks), prefix.size // prefix.blocks)) * prefix.blocks
        gates = Gates.of(parent, parent.full, dtype=torch.float64)
        for name, own, layer in names(parent):
            if own != axis:
                continue
            groups = prefix.blocks if axis in GROUPED else 1
            top = ranking.orders[name][:k]
            assert np.all(np.bincount(top // (prefix.size // groups), minlength=groups) == k // groups)
            mask = torch.zeros(prefix.size, dtype=torch.float64)
            mask[torch.from_numpy(top)] = 1
            if layer is None:
                gates.hidden = mask
            else:
                gates.layers[layer].widths = {**gates.layers[layer].widths, axis: mask}
        expected = model(tokens, gates)
        assert torch.allclose(resorted(tokens, parent.uniform(**{axis: k})), expected, rtol=1e-9, atol=1e-9), axis


@some
@given(
    data=st.data(),
    parent=parents(pattern=st.text("*M", min_size=1, max_size=3), optional=True),
    seed=st.integers(0, 99),
)
def test_the_key_value_heads_that_stay_have_the_most_important_queries(data, parent, seed):
    """The member computes what the unsorted parent computes with the others zeroed, by an older ranking, too."""
    assume(KV_HEADS in parent.axes)
    older = replace(parent, sizes={name: n for name, n in parent.sizes.items() if name != "kv_heads_stripes"})
    prefix, ranking = parent.axis(KV_HEADS), shuffled(data.draw(st.sampled_from([parent, older])), seed)
    k = data.draw(st.integers(1, prefix.size // prefix.blocks)) * prefix.blocks
    model = NemotronH.random(parent, seed=seed, dtype=torch.float64)
    gates = Gates.of(parent, parent.full, dtype=torch.float64)
    for layer in (i for i, kind in enumerate(parent.types) if kind == "attention"):
        groups = np.square(ranking.scores[f"attention_heads.{layer}"]).reshape(prefix.size, -1).sum(1)
        mask = torch.zeros(prefix.size, dtype=torch.float64)
        mask[np.argsort(-groups, kind="stable")[:k].copy()] = 1
        gates.layers[layer].widths = {**gates.layers[layer].widths, KV_HEADS: mask}
    resorted, tokens = NemotronH(parent, sort(model.state_dict(), ranking, parent)), tokens_of(parent)
    small = resorted(tokens, parent.uniform(**{KV_HEADS: k}))
    assert torch.allclose(small, model(tokens, gates), rtol=1e-9, atol=1e-9)


@some
@given(data=st.data(), parent=parents(pattern=st.text("ME", min_size=1, max_size=3)), seed=st.integers(0, 99))
def test_each_expert_keeps_its_own_top_neurons(data, parent, seed):
    """The member computes what the unsorted parent computes with all but the top k of every expert zeroed."""
    assume("E" in parent.pattern)
    prefix = parent.axis(EXPERT_FFN)
    k = data.draw(st.integers(1, prefix.size // prefix.blocks)) * prefix.blocks
    model, ranking = NemotronH.random(parent, seed=seed, dtype=torch.float64), shuffled(parent, seed)
    resorted = NemotronH(parent, sort(model.state_dict(), ranking))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for layer, kind in enumerate(parent.types):
        for expert in range(parent.size("experts") if kind == "moe" else 0):
            gone = torch.from_numpy(ranking.orders[f"{EXPERT_FFN}.{layer}"][expert, k:])
            state[f"backbone.layers.{layer}.mixer.experts.{expert}.up_proj.weight"][gone] = 0
    tokens = tokens_of(parent)
    narrow = resorted(tokens, parent.uniform(**{EXPERT_FFN: k}))
    assert torch.allclose(narrow, NemotronH(parent, state)(tokens), rtol=1e-9, atol=1e-9)


@some
@given(parent=parents(), seed=st.integers(0, 99))
def test_top_k_per_group_have_the_largest_scores(parent, seed):
    ranking = shuffled(parent, seed)
    for name, axis, _ in names(parent):
        groups = parent.axis(axis).blocks if axis in GROUPED else 1
        per_group = parent.axis(axis).size // groups
        for g in range(groups):
            for ordered, scores in zip(*map(np.atleast_2d, (ranking.orders[name], ranking.scores[name]))):
                own = [c for c in ordered if c // per_group == g]
                assert np.all(np.diff(scores[own]) <= 0)


def test_numpy_and_torch_states_are_sorted_alike_and_rigid_tensors_are_not_copied():
    model, ranking = NemotronH.random(PARENT), shuffled(PARENT, 1)
    state = {k: v.detach() for k, v in model.state_dict().items()}
    by_torch = sort(state, ranking)
    by_numpy = sort({k: v.numpy() for k, v in state.items()}, ranking)
    assert list(by_torch) == list(state)
    for name, value in by_torch.items():
        assert np.array_equal(value.numpy(), by_numpy[name]), name
    key = next(n for n in state if n.endswith("k_proj.weight"))
    assert by_torch[key].shape == state[key].shape
    assert all(v is state[k] for k, v in sort(state, Ranking.trivial(PARENT), replace(PARENT, ffn_stripes=1)).items())


def test_errors_name_what_is_wrong():
    model, ranking = NemotronH.random(PARENT), shuffled(PARENT, 1)
    state = dict(model.state_dict())
    with pytest.raises(ElasticError, match="hidden is 16 there, 20 in this parent"):
        sort(state, ranking, replace(PARENT, hidden=20))
    with pytest.raises(ElasticError, match=r"has no 'lm_head\.weight'"):
        sort({k: v for k, v in state.items() if k != "lm_head.weight"}, ranking)
    with pytest.raises(ElasticError, match="'extra' is no tensor"):
        sort(state | {"extra": torch.zeros(1)}, ranking)
    with pytest.raises(ElasticError, match=r"shape \(3,\), this parent's is \(16,\)"):
        sort(state | {"backbone.norm_f.weight": torch.zeros(3)}, ranking)


def test_a_tied_head_may_be_in_the_state_or_not():
    parent = replace(PARENT, tied=True)
    ranking = shuffled(parent, 1)
    state = dict(NemotronH.random(parent).state_dict())
    without = {k: v for k, v in state.items() if k != "lm_head.weight"}
    with_head = without | {"lm_head.weight": without["backbone.embeddings.weight"]}
    assert "lm_head.weight" not in sort(without, ranking)
    both = sort(with_head, ranking)
    assert torch.equal(both["lm_head.weight"], both["backbone.embeddings.weight"])
