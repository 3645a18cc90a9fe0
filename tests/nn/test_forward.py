# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Experts of the reference model: against a loop over tokens, under gates, and what a probe is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from tests.shapes import LATENT, MOE

ONE = {"latent": replace(LATENT, pattern="E"), "plain": replace(MOE, pattern="E")}


def tokens_of(parent: Parent, length: int = 11) -> torch.Tensor:
    return torch.randint(parent.vocab, (2, length), generator=torch.Generator().manual_seed(0))


def seen_by(model: NemotronH, choice: Subnet | Gates | None = None) -> dict[str, np.ndarray]:
    """What the probe of the one layer is shown."""
    seen: dict[str, np.ndarray] = {}
    model(tokens_of(model.parent), choice, lambda site, _, x: seen.setdefault(site, x.detach().double().numpy()))
    return seen


def by_hand(
    parent: Parent, state: dict[str, np.ndarray], x_d: np.ndarray, gate_e: np.ndarray, gate_f: np.ndarray
) -> tuple[np.ndarray, dict[int, float]]:
    """The layer's output for one token, and the norm of what each of its experts adds. Gates may be ones."""
    w = {name.removeprefix("backbone.layers.0.mixer."): value for name, value in state.items()}
    score_e = 1 / (1 + np.exp(-w["gate.weight"] @ x_d))
    with np.errstate(divide="ignore"):
        rank_e = score_e + w["gate.e_score_correction_bias"] + np.log(gate_e) / 20
    chosen = np.argsort(-rank_e)[: parent.size("top_k")]
    x_i = w["fc1_latent_proj.weight"] @ x_d if parent.has("latent") else x_d
    y_i, norms = np.zeros_like(x_i), {}
    for e in chosen:
        h_f = np.maximum(w[f"experts.{e}.up_proj.weight"] @ x_i, 0) ** 2 * gate_f
        added = w[f"experts.{e}.down_proj.weight"] @ h_f * gate_e[e] * score_e[e] / score_e[chosen].sum() * 2.5
        y_i, norms[int(e)] = y_i + added, float(np.linalg.norm(added))
    y_d = w["fc2_latent_proj.weight"] @ y_i if parent.has("latent") else y_i
    shared_f = np.maximum(w["shared_experts.up_proj.weight"] @ x_d, 0) ** 2
    return y_d + w["shared_experts.down_proj.weight"] @ shared_f, norms


def soft(parent: Parent, seed: int = 1) -> Gates:
    """Gates of experts and of their neurons between 0 and 1, with two experts at 0; others are whole."""
    random = torch.Generator().manual_seed(seed)
    gates = Gates.of(parent, parent.full, dtype=torch.float64)
    own = dict(gates.layers[0].widths)
    own["experts"] = torch.rand(parent.size("experts"), generator=random, dtype=torch.float64)
    own["experts"][[1, 6]] = 0
    own["expert_ffn"] = torch.rand(parent.size("expert_ffn"), generator=random, dtype=torch.float64)
    gates.layers[0].widths = own
    return gates


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("gated", [False, True])
def test_each_token_goes_to_its_experts(name: str, gated: bool) -> None:
    parent = ONE[name]
    model = NemotronH.random(parent, seed=3, scale=2.0, dtype=torch.float64)
    gates = soft(parent) if gated else None
    seen = seen_by(model, gates)
    state = {key: value.double().numpy() for key, value in model.state_dict().items()}
    ones = np.ones(8), np.ones(12)
    gate_e, gate_f = ones if gates is None else (gates.layers[0][axis].numpy() for axis in ("experts", "expert_ffn"))
    added = seen["layer_out"] - seen["layer_in"]
    used = set()
    for b, t in np.ndindex(added.shape[:2]):
        expected, norms = by_hand(parent, state, seen["hidden"][b, t], gate_e, gate_f)
        np.testing.assert_allclose(added[b, t], expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(seen["experts"][b, t][list(norms)], list(norms.values()), rtol=1e-9)
        assert set(np.flatnonzero(seen["routed"][b, t])) == set(norms) and len(norms) == 2
        used |= set(norms)
    assert len(used) > 4 and not (gated and used & {1, 6})


@pytest.mark.parametrize("name", ONE)
def test_what_a_probe_is_shown_of_neurons(name: str) -> None:
    parent = ONE[name]
    model = NemotronH.random(parent, seed=3, dtype=torch.float64)
    seen, state = seen_by(model), {k: v.double().numpy() for k, v in model.state_dict().items()}
    x_bli = seen["latent"] if parent.has("latent") else seen["hidden"]
    if parent.has("latent"):
        down = state["backbone.layers.0.mixer.fc1_latent_proj.weight"]
        np.testing.assert_allclose(seen["latent"], seen["hidden"] @ down.T, rtol=1e-9)
    for e in range(8):
        h_blf = np.maximum(x_bli @ state[f"backbone.layers.0.mixer.experts.{e}.up_proj.weight"].T, 0) ** 2
        mean_bf = (h_blf * seen["routed"][:, :, e, None]).mean(1)
        np.testing.assert_allclose(seen["expert_ffn"][:, 0, e], mean_bf, rtol=1e-9, atol=1e-15)
    up = state["backbone.layers.0.mixer.shared_experts.up_proj.weight"]
    np.testing.assert_allclose(seen["shared_ffn"], np.maximum(seen["hidden"] @ up.T, 0) ** 2, rtol=1e-9)


def test_a_dropped_expert_takes_no_token_whatever_its_bias_says() -> None:
    """Its score would be 0 under a mask, but a bias alone can win against every score."""
    model = NemotronH.random(MOE, seed=5, dtype=torch.float64)
    small = MOE.uniform(experts=4)  # the first two of each stripe of four
    for layer in (1, 4):
        bias = model.get_parameter(f"backbone.layers.{layer}.mixer.gate.e_score_correction_bias").data
        bias[[2, 3, 6, 7]] = 50.0
    seen = []
    gates = Gates.of(MOE, small, dtype=torch.float64)
    tokens = tokens_of(MOE)
    masked = model(tokens, gates, lambda site, _, x: seen.append(x) if site == "routed" else None)
    assert len(seen) == 2 and all(not routed[:, :, [2, 3, 6, 7]].any() and routed.any() for routed in seen)
    assert torch.allclose(masked, model(tokens, small), rtol=1e-12)


def between(share: float | torch.Tensor, whole: Gates, hard: Gates) -> Gates:
    """Gates on the way from a member to the parent, experts and all else."""
    out = Gates.of(MOE, MOE.full, dtype=torch.float64)
    for mine, a, b in zip(out.layers, whole.layers, hard.layers, strict=True):
        mine.widths = {axis: share * a[axis] + (1 - share) * b[axis] for axis in a.widths}
    return out


def test_experts_fade_and_tell_at_every_gate_what_they_are_worth() -> None:
    """They keep slots until the end, and the loss has a slope: gates that only choose are a threshold."""
    model = NemotronH.random(MOE, seed=6, dtype=torch.float64)
    small, tokens = MOE.uniform(experts=4), tokens_of(MOE, 64)
    whole, hard = (Gates.of(MOE, member, dtype=torch.float64) for member in (MOE.full, small))
    dropped = hard.layers[1].widths["experts"] == 0
    expected, shares, gaps = model(tokens).detach(), [], []
    for value in (1.0, 0.7, 0.3, 0.1):
        gate, seen = torch.tensor(value, dtype=torch.float64, requires_grad=True), []
        probe = lambda site, _, x, to=seen: to.append(x) if site == "routed" else None  # noqa: E731
        out = model(tokens, between(gate, whole, hard), probe)
        gaps.append((out - expected).square().mean())
        shares.append(float(seen[0][..., dropped].sum() / seen[0].sum()))
        (slope,) = torch.autograd.grad(gaps[-1], gate)
        assert value == 1 or slope < -1e-3 * gaps[-1], value
    assert shares[0] > shares[1] > shares[2] > shares[3] > 0.05
    assert gaps[0] < 1e-20 and gaps[1] < gaps[2] < gaps[3] < (model(tokens, small) - expected).square().mean()
