# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What runs of either host left, compared: losses, whole tensors whatever layout wrote them, rankings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nemo_elastic.formats.megatron.stored import ELASTIC, Stored
from nemo_elastic.hosts.common.checkpoints import NEMO
from nemo_elastic.ranking import Ranking
from tests.parallel.runs import PEAK
from tests.support.figures import largest

#: relative, of a loss; and of a weight, in steps of the optimizer (peak learning rates); float32
LOSS, WEIGHT = 1e-4, 1e-3
#: relative to the largest of its kind, of a ranking's score; and of a candidate's loss, whose width may end between
#: two directions of nearly equal moments
SCORE, CANDIDATE = 1e-5, 5e-4
#: nats, below which a candidate's loss is rounding of the parent's logits
LEAST = 1e-4
#: weights of a rotated parent: directions of nearly equal moments turn with the last bit of these
BASIS = 1e-3
#: the optimizer's average of gradients
AVERAGE = "optimizer.state.exp_avg.module."
#: gradients below this share of the largest are rounding; the router's are compared among themselves, being smaller
FLOOR = 1e-3
#: the digest of the ranking in a checkpoint
RANKING = f"{ELASTIC}ranking"


def checkpoint(run: Path) -> Path:
    """The last checkpoint of a run, or what a ranking sorted."""
    if (run / "ranked").exists():
        return run / "ranked"
    nemo = NEMO.whole(run / "checkpoints")
    return nemo[-1] if nemo else run / "checkpoints"


def elastic(run: Path) -> Path:
    """The folder of ranking, shapes and members."""
    return run / "elastic" if (run / "elastic").exists() else run / "checkpoints" / "elastic"


def lines(run: Path, kind: str = "step") -> list[dict[str, Any]]:
    """What a run wrote down."""
    nemo = run / "metrics.jsonl"
    text = (nemo if nemo.exists() else run / "checkpoints" / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


def losses(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if "loss" in k} for line in lines(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Weights, router and members, without the ranking's digest: it has the last bits of the basis."""
    stored = Stored(checkpoint(run))
    return {name: stored.read(name) for name in stored.sizes if name != RANKING}


def gradients(run: Path) -> dict[str, torch.Tensor]:
    """Average of the gradients, as the optimizer got them."""
    return Stored(checkpoint(run)).read_all(AVERAGE)


def digests(run: Path) -> dict[str, str]:
    """Hash of every tensor of a run's last checkpoint: weights, router, members, optimizer."""
    return {
        name: hashlib.sha256(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, value in Stored(checkpoint(run)).read_all().items()
    }


def deviation(actual: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], relative: bool = False) -> float:
    """Largest difference of any value; relative to the largest of its tensor, or to a small part of that of all.

    Raises:
        AssertionError: other names or shapes, or other members.
    """
    assert actual.keys() == wanted.keys(), sorted(actual.keys() ^ wanted.keys())
    sizes = {name: float(value.abs().max()) if value.numel() else 0.0 for name, value in wanted.items()}
    most = {kind: largest(s for n, s in sizes.items() if ("router" in n) == kind) for kind in (False, True)}
    apart_by = []
    for name, value in wanted.items():
        assert value.is_floating_point() or torch.equal(actual[name], value), name
        scale = max(sizes[name], FLOOR * most["router" in name]) if relative else 1.0
        apart_by.append(float((actual[name].double() - value.double()).abs().max()) / scale)
    return largest(apart_by)


def apart(actual: Path, wanted: Path) -> tuple[float, float]:
    """How far two runs of the same budgets are apart: losses, relative, and weights, in steps of the optimizer.

    Raises:
        AssertionError: other budgets, members or tensors.
    """
    apart_by = []
    for one, other in zip(losses(actual), losses(wanted), strict=True):
        assert one.keys() == other.keys()
        apart_by += [abs(one[name] - other[name]) / abs(other[name]) for name in one]
    return largest(apart_by), deviation(weights(actual), weights(wanted)) / PEAK


def same(actual: Path, wanted: Path) -> None:
    """The same budgets were sampled, lost the same, and left the same weights, router and members."""
    loss, weight = apart(actual, wanted)
    assert loss <= LOSS and weight <= WEIGHT


def identical(actual: Path, wanted: Path) -> None:
    """The run that was stopped ended as the one that was not, with the same losses and bits."""
    assert [line["step"] for line in lines(actual)] == [line["step"] for line in lines(wanted)]
    assert losses(actual) == losses(wanted)
    assert digests(actual) == digests(wanted)


class Deviation(NamedTuple):
    """How far two rankings and searches are apart that found the same orders and members.

    Attributes:
        score: of any axis, relative to the largest of a layer, or of a dropped layer.
        loss: relative, of any candidate; of one below `LEAST` relative to that.
        weights: how many tensors are not the same, bit by bit; with a basis, which ranks find to rounding alone, to
            `BASIS`.
    """

    score: float
    loss: float
    weights: int

    @property
    def alike(self) -> bool:
        return self.score <= SCORE and self.loss <= CANDIDATE and self.weights == 0


def rankings_apart(actual: Path, wanted: Path) -> Deviation:
    """Compare what two ranking jobs left.

    Raises:
        AssertionError: other orders, another depth or other members.
    """
    ours, theirs = (Ranking.load(elastic(run) / "ranking") for run in (actual, wanted))
    assert replace(ours, basis=None).digest == replace(theirs, basis=None).digest
    assert ours.scores.keys() == theirs.scores.keys() and (ours.basis is None) == (theirs.basis is None)
    assert (ours.depth, ours.options, ours.provenance) == (theirs.depth, theirs.options, theirs.provenance)
    pairs = [(ours.scores[name], value) for name, value in theirs.scores.items()]
    pairs += [tuple(np.array([s for s in r.depth_scores if s is not None]) for r in (ours, theirs))]  # pyright: ignore
    score = largest(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)
    left = [json.loads((elastic(run) / "shapes.json").read_text()) for run in (actual, wanted)]
    one, other = (found["report"] for found in left)
    assert left[0]["members"] == left[1]["members"] and one["source"] == other["source"]
    losses_apart = []
    for a, b in zip(one.get("trace", ()), other.get("trace", ()), strict=True):
        assert {**a, "loss": 0} == {**b, "loss": 0}
        losses_apart.append(abs(a["loss"] - b["loss"]) / max(b["loss"], LEAST))
    held = [weights(run) for run in (actual, wanted)]
    assert held[0].keys() == held[1].keys()
    for ranking, run in ((ours, actual), (theirs, wanted)):
        assert bytes(Stored(checkpoint(run)).read(RANKING).tolist()).hex() == ranking.digest
    most = 0 if ours.basis is None else BASIS
    apart_by = sum(not torch.allclose(value, held[1][name], rtol=0, atol=most) for name, value in held[0].items())
    return Deviation(score, largest(losses_apart), apart_by)
