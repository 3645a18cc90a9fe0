# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Llama's layers are those of a plain implementation, masks cut them, and a rotated parent computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.study import real
from benchmarks.study.llama import BASE, HEAD_DIM, HEADS, INNER, KINDS, KV_HEADS, rotary, unpaired
from nemo_elastic import Parent
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import OWN_WIDTH, PARENT_WIDTH
from nemo_elastic.core.precision import FP8
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.nemotron_h import NemotronH
from tests.core.kinds.gated import registered

TOKENS = torch.arange(22).view(2, 11) * 7 % 96


@pytest.fixture(scope="module", autouse=True)
def kinds() -> Iterator[None]:
    with registered(KINDS):
        yield


@pytest.fixture(scope="module")
def model(kinds: None) -> NemotronH:
    sizes = {HEADS: 6, KV_HEADS: 3, HEAD_DIM: 8, BASE: 100.0, INNER: 40}
    return NemotronH.random(
        Parent("RGRG", 32, 96, sizes=sizes, norm=PARENT_WIDTH), seed=1, scale=3, dtype=torch.float64
    )


def plain_llama(state: dict[str, torch.Tensor], tokens_bl: torch.Tensor, layers: int) -> torch.Tensor:
    """Token by token and head by head; positions turn pairs of channels as complex numbers."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[name]

    def turned(x_d: torch.Tensor, position: int) -> torch.Tensor:
        pairs = torch.complex(*x_d.chunk(2))
        turns = position * 100.0 ** -(torch.arange(4).double() / 4)
        pairs = pairs * torch.polar(torch.ones(4).double(), turns)
        return torch.cat([pairs.real, pairs.imag])

    x_bld = state["backbone.embeddings.weight"][tokens_bl]
    for i in range(layers):
        own = {n.split(".")[-2]: w for n, w in state.items() if n.startswith(f"backbone.layers.{i}.")}
        y_bld = norm(x_bld, f"backbone.layers.{i}.norm.weight")
        if i % 2:
            x_bld = x_bld + (F.silu(y_bld @ own["gate_proj"].T) * (y_bld @ own["up_proj"].T)) @ own["down_proj"].T
            continue
        q, k, v = ((y_bld @ own[f"{n}_proj"].T).unflatten(-1, (-1, 8)) for n in "qkv")
        out = torch.zeros_like(q)
        for b, at, h in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
            keys = torch.stack([turned(k[b, j, h // 2], j) for j in range(at + 1)])
            share = (keys @ turned(q[b, at, h], at) / 8**0.5).softmax(0)
            out[b, at, h] = share @ v[b, : at + 1, h // 2]
        x_bld = x_bld + out.flatten(2) @ own["out_proj"].T
    return norm(x_bld, "backbone.norm_f.weight") @ state["lm_head.weight"].T


@torch.no_grad()
def test_it_is_llama(model: NemotronH) -> None:
    assert torch.allclose(model(TOKENS), plain_llama(model.state_dict(), TOKENS, 4), rtol=1e-9, atol=1e-9)
    documents = model(TOKENS, documents=Documents(((4, 11), (11,))))
    assert torch.allclose(documents[:1, 4:], plain_llama(model.state_dict(), TOKENS[:1, 4:], 4), rtol=1e-9, atol=1e-9)


def test_rows_that_turn_together_lie_half_a_head_apart() -> None:
    """GGUF's order of rows, turned in neighbouring pairs, is ours turned in halves."""
    stored = torch.randn(2 * 8, 5, dtype=torch.float64)
    x_ld = torch.randn(3, 5, dtype=torch.float64)
    ours_hld = (x_ld @ unpaired(stored, 2).T).unflatten(-1, (2, 8)).transpose(0, 1)
    pairs = torch.view_as_complex((x_ld @ stored.T).unflatten(-1, (2, 4, 2)).transpose(0, 1).contiguous())
    turns = torch.outer(torch.arange(3).double(), 100.0 ** -(torch.arange(4).double() / 4))
    pairs = pairs * torch.polar(torch.ones_like(turns), turns)
    assert torch.allclose(rotary(ours_hld[None], 100.0)[0], torch.cat([pairs.real, pairs.imag], -1))


def test_a_study_of_a_tiny_parent(model: NemotronH, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways share the order of layers; members meet their budgets; training helps; nothing is made twice."""
    axes = {"hidden": [32, 24, 16, 8], "depth": [4, 3, 2], HEADS: [6, 3], INNER: [40, 24, 8]}
    random = torch.Generator().manual_seed(0)
    rows = {held_out: torch.randint(96, (60, 16), generator=random) for held_out in (False, True)}
    plain = NemotronH(replace(model.parent, norm=OWN_WIDTH), {n: t.float() for n, t in model.state_dict().items()})
    study = real.Study(real.Ground(plain, rows, axes, tmp_path), tmp_path / "kept")
    for way in real.WAYS:
        assert study.ground.apart(study.model(way), None, study.ground.held_out)[0] == pytest.approx(0, abs=2e-3)
        study.untrained(way, (16,))
        whole = parameters(plain.parent, plain.parent.full)
        for size, share in real.BUDGETS.items():
            assert parameters(plain.parent, study.member(way, size)) <= share * whole
    narrow = {r.way: r.apart for r in study.kept.find(run="fixed")}
    assert narrow[real.BASIS] < narrow[real.WIDE] != narrow[real.CHOSEN]
    for way in real.TRAINED_WAYS:
        study.rounded(way, FP8)
    (rounded,) = study.kept.find(way=real.BASIS, run=FP8, size=real.PARENT)
    assert 0 < rounded.apart < 0.1
    before = {r.size: r.apart for r in study.kept.find(way=real.BASIS, run="search")}
    assert study.alone(real.BASIS, "50", 0, 20, 3e-3).apart < before["50"]
    family = study.family(real.BASIS, 0, 20, 3e-3)
    assert family[-1].apart < before["50"] and [r.size for r in family] == [*real.BUDGETS]
    assert study.alone(real.BASIS, "16", 0, 2, 1e-3).widths["hidden"] == 16
    study.parent()
    monkeypatch.setattr(real.Study, "_train", None)
    again = real.Study(study.ground, tmp_path / "kept")
    assert again.family(real.BASIS, 0, 20, 3e-3) == family
    written = real.tables(again.kept.results)
    assert "peak 0.003" in written and "| the parent | +" in written
