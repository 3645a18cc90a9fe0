# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The megatron-core model layer by layer: the forward, what its probe sees, and the order of its layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.megatron.cpu import cuda_as_cpu
from nemo_elastic.megatron.layers import MegatronLayers
from nemo_elastic.ranking import Statistics
from nemo_elastic.ranking.depth import Depth, iterative_mse
from nemo_elastic.ranking.scores import through
from tests.support.naive_depth import naive_evaluations, naive_order

from .models import build, randomise, start

pytestmark = pytest.mark.nemo
PATTERNS = ("M-M*-M-M", "*M-MM--*M-")


def parent_of(pattern: str) -> Parent:
    return Parent(pattern, 24, 40, 24, 12, 4, 4, 6, 4, 6, 2, 4, ffn_stripes=4)


def model_of(parent: Parent, elastic: bool = True):
    start()
    model = build(parent, elastic)
    randomise(model)
    return model.eval()


def tokens_of(parent: Parent, batch: int) -> torch.Tensor:
    return torch.randint(parent.vocab, (batch, 16), generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("elastic, tied", [(True, False), (True, True), (False, False)])
def test_layers_in_a_row_are_the_forward(elastic, tied):
    parent = replace(parent_of(PATTERNS[0]), tied=tied)
    model, tokens = model_of(parent, elastic), tokens_of(parent, 2)
    layers = MegatronLayers(model)
    with torch.no_grad(), cuda_as_cpu():
        normed = through(layers, range(parent.num_layers), layers.embed(tokens), Statistics(parent))
        assert torch.equal(layers.head(normed), model(tokens, None, None))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_order_and_scores_are_those_of_running_every_candidate_whole(pattern):
    parent = parent_of(pattern)
    model, tokens = model_of(parent), tokens_of(parent, 4)
    count = [0]
    for layer in model.decoder.layers:
        mixer = next(m for name in ("mixer", "mlp", "self_attention") if (m := _mixer(layer, name)) is not None)
        mixer.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))

    def forward(tokens_bl, member):
        model.state.choice = member
        try:
            return model(tokens_bl, None, None)
        finally:
            model.state.choice = None

    pieces = tokens.split(1)
    with torch.no_grad(), cuda_as_cpu():
        expected = naive_order(forward, parent, pieces)
        assert count[0] == 4 * naive_evaluations(len(pattern))
        count[0] = 0
        depth = Depth(MegatronLayers(model), parent.num_layers)
        for piece in pieces:
            depth.add(piece)
        actual = iterative_mse(depth)
    assert actual[0] == expected[0]
    assert actual[1][:-1] == pytest.approx(expected[1][:-1], rel=1e-6)
    layers = len(pattern)
    assert count[0] <= 4 * (layers + (naive_evaluations(layers) - layers) / 2 + layers * (layers - 1) / 2)


def _mixer(layer, name):
    mixer = getattr(layer, name, None)
    return mixer if isinstance(mixer, torch.nn.Module) and any(True for _ in mixer.parameters()) else None
