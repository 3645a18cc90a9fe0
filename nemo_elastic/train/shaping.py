# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""From a parent in memory to members: rank, sort, search; then follow the router; freeze."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.config.block import EVEN, SEARCH
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import bad
from nemo_elastic.io.outputs import check_output
from nemo_elastic.io.terminal import say
from nemo_elastic.io.write import atomic_write
from nemo_elastic.nn.gates import Choice
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import RANKING, Ranking, RankOptions
from nemo_elastic.ranking.measure import rank
from nemo_elastic.search import Space, search, uniform_family
from nemo_elastic.slicing.family_folder import read_members

from .seam import Host, Output
from .training import FamilyTraining

#: what enters the teacher's head in the search is kept if it has at most this many elements, else computed again
CACHE_ELEMENTS = 2**27
#: a candidate of the search is measured by it, whatever the run trains with
DIVERGENCE = DistillConfig()
#: steps after which the router's choices are read again, which are validated and saved
REFRESH = 16


def prepare_members(family: FamilyTraining, host: Host, out: Path) -> None:
    """Rank (or load a ranking), sort the weights in place, find first shapes.

    All ranks call it, and find the same: those of one rank, but for rounding.

    Args:
        family: of a model that holds the parent's weights, unsorted.
        host: with data and optimizer set up.
        out: folder that gets `ranking/` and `shapes.json`.
    """
    config, members = family.config, family.members
    with host.evaluating():
        ranking = obtain_ranking(family, host, out)
        host.sort(ranking)
        space = family.space(family.parent, list(ranking.depth))
        space.check_budgets(config.budgets)
        shapes = find_shapes(family, host, space, out)
    if members.router is None:
        members.drop_order.copy_(torch.tensor(space.whole_drop_order))
    else:
        members.router.space = space
    members.put_ranking(ranking.digest)
    members.put(shapes, frozen=members.router is None)
    host.weights_changed()


def shape_members(family: FamilyTraining, host: Host, out: Path, step: int | None = None) -> None:
    """Before a step: read the router's choices, freeze, where it is due.

    All ranks call it before every step, and after the last. A run that was resumed does again what the steps after
    its checkpoint did.

    Args:
        family, host: see `prepare_members`.
        out: folder that gets `members.json` when shapes are frozen.
        step: how many are done; `host.step` where that counts the last one already.
    """
    step = host.step if step is None else step
    members, router = family.members, family.members.router
    if members.is_frozen:
        return
    if step >= family.freeze_step:
        freeze_members(family, host, out, step)
    elif router is not None and step > 0 and step % REFRESH == 0:
        members.put([p.member for p in router.family().values()], frozen=False)


def obtain_ranking(family: FamilyTraining, host: Host, out: Path) -> Ranking:
    """The ranking named in the block, checked against the parent; or a new one, saved under `out`.

    Of a family that is sorted already, one that moves nothing.
    """
    config, parent = family.config, family.parent
    if config.ranking is not None:
        return Ranking.load(config.ranking, parent).check_block(config, parent)
    if host.first:
        check_output(out / "ranking", True, kind=RANKING)  # it takes long
    ranking = Ranking.trivial(parent) if config.is_sorted else _measured(family, host)
    if host.first:
        ranking.save(out / "ranking", force=True)
    return ranking


def _measured(family: FamilyTraining, host: Host) -> Ranking:
    samples = family.config.importance.samples
    units = {"widths": "sequences", "depth": "layers"}
    return rank(
        host.layers(),
        family.parent,
        host.sequences(samples, host.micro_batch_size),
        RankOptions.of(family.config, family.parent),
        progress=lambda phase, done, total: _show(
            host, f"ranking: {phase} {done}/{total} {units[phase]}", done, total, 4
        ),
        reduce=host.sum_over_data_ranks,
        provenance={"sequences": samples, "length": host.seq_length},
        shards=host.shards(),
        samples=samples,
    )


def find_shapes(family: FamilyTraining, host: Host, space: Space, out: Path) -> list[Subnet]:
    """Shapes that the run starts with, one for each budget, in order: from a file, a search or even cuts.

    They are written to `out/shapes.json`. With `shapes: router` the router changes them later.
    """
    config = family.config
    report: dict[str, Any] = {"source": EVEN}
    if config.shapes_file is not None:
        shapes = read_members(config.shapes_file, family.parent, config)
        report = {"source": config.shapes_file}
    elif config.searches:
        result = search(
            space,
            config.budgets,
            untrained_loss(family, host, config.search.tokens),
            candidates=config.search.candidates,
            seed=config.seed,
            progress=lambda done, total, _: _show(host, f"search: {done}/{total} candidates", done, total, 5),
        )
        shapes, report = result.members, result.to_json() | {"source": SEARCH}
    else:
        shapes = uniform_family(space, config.budgets)
    write_shapes(out / "shapes.json", {b.name: shapes[b.name] for b in config.budgets}, report, host)
    return [shapes[b.name] for b in config.budgets]


def untrained_loss(family: FamilyTraining, host: Host, tokens: int) -> Any:
    """Loss of a candidate: mean KL in nats per token from the whole model, on the first training sequences.

    There are enough sequences for `tokens` tokens that count in the loss, and at most those of the ranking.
    """
    sequences, most = max(1, tokens // host.seq_length), family.config.importance.samples
    batches, counted = _first_batches(host, sequences)
    more = min(int(sequences * tokens // max(counted, 1.0)), most)
    if counted < tokens and more > sequences:
        batches, counted = _first_batches(host, more)
    if not counted:
        raise bad("data", f"{max(sequences, more)} sequences", "sequences in which tokens count, to search on")
    keep = sum(rows.ids_bl.numel() for rows in batches) * family.parent.hidden <= CACHE_ELEMENTS

    def run(rows: Rows, choice: Choice) -> Output:
        return host.student(rows.ids_bl, choice, rows.documents)

    cache = [run(rows, None) for rows in batches] if keep else []

    def loss(member: Subnet) -> float:
        total = 0.0
        for i, rows in enumerate(batches):
            teacher = cache[i] if keep else run(rows, None)
            kl, _ = host.loss(DIVERGENCE, run(rows, member), teacher, rows.ids_bl, rows.counts_bl)
            total += float(kl)
        return _agreed(host, batches, total) / counted

    return loss


def _first_batches(host: Host, sequences: int) -> tuple[list[Rows], float]:
    """This rank's share of the first training sequences, and how many tokens of all ranks count."""
    batches = list(host.sequences(sequences, host.micro_batch_size))
    return batches, _agreed(host, batches, sum(rows.counted for rows in batches))


def _agreed(host: Host, batches: Sequence[Rows], number: float) -> float:
    return float(host.sum_over_data_ranks(torch.tensor(number, dtype=torch.float64, device=batches[0].ids_bl.device)))


def freeze_members(family: FamilyTraining, host: Host, out: Path, step: int) -> None:
    """Fix the shapes for the rest of the run: the router's choices, projected and nested."""
    members, names = family.members, [b.name for b in family.config.budgets]
    report: dict[str, Any] = {"source": family.config.shapes, "step": step}
    if members.router is not None:
        projections = members.router.family()
        members.put([projections[name].member for name in names], frozen=True)
        report["projection"] = {
            n: {"target": p.target, "raw_cost": p.raw_cost, "cost": p.cost, "raw": p.raw.to_json()}
            | ({"limits": p.limits} if p.limits else {})
            for n, p in projections.items()
        }
    else:
        members.put(members.get(), frozen=True)
    write_shapes(out / "members.json", dict(zip(names, members.get(), strict=True)), report, host)
    if host.first:
        say(f"  shapes frozen at step {step}")


def write_shapes(path: Path, members: Mapping[str, Subnet], report: Mapping[str, Any], host: Host) -> None:
    """{"members": {name: subnet}, …}: what `elastic.shapes` reads."""
    if host.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {"members": {n: m.to_json() for n, m in members.items()}, "report": finite(dict(report))}
        atomic_write(path, json.dumps(body, indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """JSON has no word for NaN and infinity: null stands for what could not be measured."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def _show(host: Host, text: str, done: int, total: int, parts: int) -> None:
    """Print a line for each of so many parts of the work."""
    if host.first and (done == total or done % max(1, total // parts) == 0):
        say(f"  {text}")
