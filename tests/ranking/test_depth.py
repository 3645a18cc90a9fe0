# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The order of layers: that of its definition, from less than half of the layers, with bounded memory."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn import forward as forward_module
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import RankOptions, depth
from nemo_elastic.ranking.depth import CHUNK, Depth, by_score, iterative_mse, squared_error
from nemo_elastic.ranking.measure import rank
from tests.ranking.test_sorting import tokens_of
from tests.shapes import PARENT
from tests.strategies import parents
from tests.support.naive_depth import naive_evaluations, naive_order


class Toy:
    """A 'model' whose stream is the set of layers that it went through, and whose one logit is 1 + a damage.

    The damage is a function of the missing layers and of the sample, which is its first token.
    """

    def __init__(self, damage, layers=PARENT.num_layers):
        self.damage, self.layers = damage, layers

    def embed(self, tokens_bl):
        return torch.stack([tokens_bl[:, :1], torch.zeros_like(tokens_bl[:, :1])], -1)

    def layer(self, index, stream, probe=None):
        return stream + torch.tensor([0, 1 << index])

    def norm(self, stream, probe=None):
        return stream

    def head(self, normed):
        logits = []
        for sample, mask in normed[:, 0].tolist():
            logits.append(1.0 + self.damage(sample, {j for j in range(self.layers) if not mask >> j & 1}))
        return torch.tensor(logits, dtype=torch.float64)[:, None, None]


def measured(model, pieces, layers=None, reduce=None, together=1):
    if isinstance(model, NemotronH):
        model, layers = Layers(model.weights()), model.parent.num_layers
    depth = Depth(model, layers or model.layers, reduce, together=together)
    for piece in pieces:
        depth.add(piece)
    return depth


@pytest.fixture
def evaluations(monkeypatch):
    """How many sequences went through layers of the torch model."""
    count = [0]

    def counted(mixer):
        def run(x_bld, layer_run):
            count[0] += len(x_bld)
            return mixer(x_bld, layer_run)

        return run

    for kind, mixer in forward_module.MIXERS.items():
        monkeypatch.setitem(forward_module.MIXERS, kind, counted(mixer))
    return count


@settings(max_examples=10)
@given(
    parent=parents(max_layers=6),
    seed=st.integers(0, 99),
    exact=st.none() | st.integers(1, 6),
    candidates=st.sampled_from([1, 2, 3, 99]),
)
def test_order_and_scores_are_those_of_running_every_candidate_whole(parent, seed, exact, candidates):
    model = NemotronH.random(parent, seed=seed)
    pieces = [tokens_of(parent, seed=s) for s in range(3)]
    actual = iterative_mse(measured(model, pieces, together=candidates * pieces[0].numel()), exact)
    assert actual == naive_order(model, parent, pieces, exact)  # bit for bit


@settings(max_examples=60)
@given(data=st.data(), pieces=st.integers(1, 5))
def test_no_layer_is_given_up_that_is_the_least_important(data, pieces):
    """Any errors at all, ties among them: what a piece says of a layer may be the opposite of what others say."""
    seen = {}

    def damage(sample, missing):
        if not missing:
            return 0.0
        key = (sample, *sorted(missing))
        if key not in seen:
            seen[key] = data.draw(st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0, 10.0, 100.0]))
        return seen[key]

    def forward(tokens, member):
        toy = Toy(damage)
        stream = toy.embed(tokens)
        for j in member.kept:
            stream = toy.layer(j, stream)
        return toy.head(stream)

    batches = [torch.full((1, 2), i) for i in range(pieces)]
    actual = iterative_mse(measured(Toy(damage), batches))
    assert actual == naive_order(forward, PARENT, batches)


def test_of_two_that_cost_alike_the_first_goes_whatever_a_piece_says() -> None:
    """Layer 0 has cost all of it on the first piece, where layer 1 costs nothing: it is not given up for that."""

    def damage(sample, missing):
        return float({(0,): 1 - sample, (1,): sample}.get(tuple(missing), 9)) if missing else 0.0

    actual, _ = iterative_mse(measured(Toy(damage), [torch.full((1, 2), i) for i in range(2)]))
    assert actual[:2] == (0, 1)


def test_half_of_the_candidates_layers_run_and_far_fewer_where_layers_are_given_up(evaluations):
    parent = replace(PARENT, pattern="M-M*-M-M")
    model, n = NemotronH.random(parent, seed=3), parent.num_layers
    one, eight = [tokens_of(parent, batch=8)], list(tokens_of(parent, batch=8).split(1))

    def count(order):
        evaluations[0] = 0
        return order(), evaluations[0] / 8

    expected, naive = count(lambda: naive_order(model, parent, eight))
    assert naive == naive_evaluations(n)
    _, shared = count(lambda: iterative_mse(measured(model, one)))
    walks = sum(k - 1 for k in range(2, n + 1))  # the reference once, half of each candidate, a walk per round
    assert shared == n + (naive - n) / 2 + walks
    actual, raced = count(lambda: iterative_mse(measured(model, eight)))
    assert actual == expected
    assert raced < 0.9 * shared


def test_streams_and_logits_alive_do_not_grow_with_layers_or_pieces(monkeypatch):
    parent = replace(PARENT, pattern="M-M*-M-M*-M-")
    layers = Layers(NemotronH.random(parent, seed=2).weights())
    made, most = {"stream": [], "logits": []}, {"stream": 0, "logits": 0}
    monkeypatch.setattr(depth, "KEPT", 0)  # final streams, which are as large, are not kept

    def watch(name, kind):
        call = getattr(layers, name)

        def run(*given):
            out = call(*given)
            made[kind] = [ref for ref in made[kind] if ref() is not None] + [weakref.ref(out)]
            most[kind] = max(most[kind], len(made[kind]))
            return out

        monkeypatch.setattr(layers, name, run)

    for name, kind in (("embed", "stream"), ("layer", "stream"), ("norm", "stream"), ("head", "logits")):
        watch(name, kind)
    pieces = [tokens_of(parent, seed=s) for s in range(3)]
    iterative_mse(measured(layers, pieces, parent.num_layers), exact=2)
    assert most == {"stream": 3, "logits": 2}  # the walk's, and a candidate's before and after a layer


def test_final_streams_that_are_not_kept_are_computed_anew(monkeypatch, evaluations):
    model, pieces = NemotronH.random(PARENT, seed=2), [tokens_of(PARENT, seed=s) for s in range(3)]
    expected = iterative_mse(measured(model, pieces))
    few, evaluations[0] = evaluations[0], 0
    monkeypatch.setattr(depth, "KEPT", 2 * pieces[0].numel() * PARENT.hidden)
    actual = measured(model, pieces)
    assert iterative_mse(actual) == expected and evaluations[0] > few
    assert len(actual._normed) == 2


def test_squared_error_adds_chunks_in_float64():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, CHUNK, 5, generator=generator) for _ in range(2))
    assert squared_error(a, b) == pytest.approx(float((a.double() - b.double()).square().sum()), rel=1e-6)
    assert squared_error(a) == pytest.approx(float(a.double().square().sum()), rel=1e-6)


class Ranks:
    """All-reduce between threads that each play a rank."""

    def __init__(self, count):
        self.barrier, self.given, self.calls = threading.Barrier(count, timeout=600), [None] * count, 0

    def reduce(self, rank):
        def run(t):
            self.given[rank] = t.clone()
            self.barrier.wait()
            total = torch.stack(self.given).sum(0)
            self.barrier.wait()
            return total

        return run

    def run(self, *calls):
        actual, threads = {}, []
        for i, call in enumerate(calls):
            threads.append(threading.Thread(target=lambda i=i, call=call: actual.update({i: call(self.reduce(i))})))
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return [actual[i] for i in range(len(calls))]


@pytest.mark.parametrize("when", [0, 1])
def test_logits_that_are_not_finite_are_reported(when):
    toy = Toy(lambda sample, missing: float("nan") if len(missing) >= when else 0.0)
    with pytest.raises(ElasticError, match="logits are not finite"):
        iterative_mse(measured(toy, [tokens_of(PARENT)]))
    with pytest.raises(ElasticError, match="all zero"):
        iterative_mse(measured(Toy(lambda *_: -1.0), [tokens_of(PARENT)]))


def test_cosine_scores_every_layer_in_the_same_pass(evaluations):
    model = NemotronH.random(PARENT, seed=2)
    ranking = rank(Layers(model.weights()), PARENT, [tokens_of(PARENT, batch=1)], RankOptions(depth="cosine"))
    assert evaluations[0] == PARENT.num_layers
    assert list(ranking.depth) == np.argsort(ranking.scores["depth"]).tolist()
    assert by_score(np.array([0.3, 0.1, 0.2])) == ((1, 2, 0), (0.1, 0.2, 0.3))


def test_a_parent_of_one_layer_has_an_order():
    parent = Parent("M", 4, 8, 4, 2, 2, 1, 2)
    actual = iterative_mse(measured(NemotronH.random(parent), [tokens_of(parent)]))
    assert actual == ((0,), (None,))
