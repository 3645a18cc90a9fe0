# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""From a parent in memory to members: rank, sort, search, start the router; later freeze what it found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.outputs import check_output
from nemo_elastic.nn.gates import Choice
from nemo_elastic.ranking import RANKING, Ranking, RankOptions, Rows, rank
from nemo_elastic.search import Space, search, uniform_family
from nemo_elastic.slicing.family_folder import read_members

from .seam import Host, Output
from .training import FamilyTraining

__all__ = ["freeze_members", "obtain_ranking", "prepare_members", "refresh_members"]

#: what enters the teacher's head in the search is kept if it has at most this many elements, else computed anew
CACHE_ELEMENTS = 2**27
#: a candidate of the search is measured by it, whatever the run trains with
DIVERGENCE = DistillConfig()
#: steps between two looks at the router's choices, where sliced micro-batches train them before the freeze
REFRESH = 16


def prepare_members(family: FamilyTraining, host: Host, out: Path) -> None:
    """Rank (or load a ranking), sort the weights in place, find first shapes, start the router or freeze.

    All ranks call it, and find the same: those of one rank, but for rounding.

    Args:
        family: of a model that holds the parent's weights, unsorted.
        host: with data and optimizer set up.
        out: folder that gets `ranking/` and `shapes.json`.

    Raises:
        ElasticError: a ranking of another parent, an unreachable budget.
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
    if members.router is not None and config.router is not None:
        members.router.space = space
        if config.search is not None:
            members.router.start_from(shapes, config.router.prior)
        members.put(list(shapes.values()), frozen=False)
    else:
        members.put(list(shapes.values()), frozen=True)
    host.weights_changed()


def obtain_ranking(family: FamilyTraining, host: Host, out: Path) -> Ranking:
    """The ranking named in the block, checked against the parent; or a new one, saved under `out`.

    Layers are dropped one by one down to the smallest depth of the block; those beyond are not measured.

    Raises:
        ElasticError: a ranking of another parent, or of fewer drops than the block's smallest depth needs.
    """
    config, parent = family.config, family.parent
    axes = config.resolve_axes(parent)
    smallest = axes[DEPTH].choices[-1]
    if config.ranking is not None:
        return Ranking.load(config.ranking, parent).check_depth(smallest, config.ranking)
    if host.first:
        check_output(out / "ranking", True, kind=RANKING)  # it takes long
    imp = config.importance
    options = RankOptions(
        ffn=imp.ffn,
        aggregation=imp.aggregation,
        experts=imp.experts,
        depth=imp.depth,
        depth_samples=min(imp.depth_samples, imp.samples),
        depth_exact=max(1, parent.num_layers - smallest),
        # a head is worth what its channels are worth that every member keeps
        head_channels=axes[MAMBA_HEAD_DIM].choices[-1] if MAMBA_HEAD_DIM in axes else None,
    )
    provenance = {"sequences": imp.samples, "length": host.seq_length}
    ranking = rank(
        host.layers(),
        parent,
        host.sequences(imp.samples, host.micro_batch_size),
        options,
        progress=_progress(host, "ranking"),
        reduce=host.agree,
        provenance=provenance,
        shards=host.shards(),
    )
    behind = host.layers_behind()
    if behind is not None:
        further = rank(
            *behind,
            host.sequences(imp.samples, host.micro_batch_size),
            replace(options, depth="cosine"),  # none of them ever goes alone
            progress=_progress(host, "ranking of further tokens"),
            reduce=host.agree,
            provenance=provenance,
            shards=host.shards(),
        )
        ranking = replace(ranking, behind=further)
    if host.first:
        ranking.save(out / "ranking", force=True)
    return ranking


def find_shapes(family: FamilyTraining, host: Host, space: Space, out: Path) -> dict[str, Subnet]:
    """First shapes of every budget: given by file, found by the search, or the most even cuts."""
    config = family.config
    report: dict[str, Any]
    if config.shapes is not None:
        shapes = read_members(config.shapes, family.parent, config)
        report = {"source": config.shapes}
    elif config.search is not None:
        result = search(
            space,
            config.budgets,
            untrained_loss(family, host, config.search.tokens),
            candidates=config.search.candidates,
            seed=config.seed,
            progress=_search_progress(host),
        )
        shapes, report = result.members, result.to_json() | {"source": "search"}
    else:
        shapes, report = uniform_family(space, config.budgets), {"source": "uniform"}
    shapes = {b.name: shapes[b.name] for b in config.budgets}
    write_shapes(out / "shapes.json", shapes, report, host)
    return shapes


def untrained_loss(family: FamilyTraining, host: Host, tokens: int) -> Any:
    """Loss of a candidate: mean KL in nats per token from the whole model, on the first training sequences.

    They are as many as hold the tokens, of all that count; no more than a ranking looks at, where few do.
    """
    sequences, most = max(1, tokens // host.seq_length), family.config.importance.samples
    batches, counted = _first_batches(host, sequences)
    more = min(int(sequences * tokens // max(counted, 1.0)), most)
    if counted < tokens and more > sequences:
        batches, counted = _first_batches(host, more)
    if not counted:
        raise bad("data", f"{max(sequences, more)} sequences", "some of whose tokens count, to search on")
    keep = sum(rows.tokens_bl.numel() for rows in batches) * family.parent.hidden <= CACHE_ELEMENTS

    def run(rows: Rows, choice: Choice) -> Output:
        return host.student(rows.tokens_bl, choice, rows.documents)

    cache = [run(rows, None) for rows in batches] if keep else []

    def loss(member: Subnet) -> float:
        total = 0.0
        for i, rows in enumerate(batches):
            teacher = cache[i] if keep else run(rows, None)
            kl, _ = host.loss(DIVERGENCE, run(rows, member), teacher, rows.tokens_bl, rows.weights_bl)
            total += float(kl)
        return _agreed(host, batches, total) / counted

    return loss


def _first_batches(host: Host, sequences: int) -> tuple[list[Rows], float]:
    """This rank's share of the first training sequences, and how many tokens of all ranks count."""
    batches = list(host.sequences(sequences, host.micro_batch_size))
    return batches, _agreed(host, batches, sum(rows.counted for rows in batches))


def _agreed(host: Host, batches: Sequence[Rows], number: float) -> float:
    return float(host.agree(torch.tensor(number, dtype=torch.float64, device=batches[0].tokens_bl.device)))


def freeze_members(family: FamilyTraining, host: Host, out: Path) -> None:
    """Project the router's choices onto their budgets, nested in each other, and fix them for the rest of the run."""
    members = family.members
    if members.router is None:
        raise ElasticError("members: shapes are not frozen and there is no router that could choose them")
    projections = members.router.family()
    shapes = {b.name: projections[b.name].member for b in family.config.budgets}
    members.put(list(shapes.values()), frozen=True)
    report = {
        "source": "router",
        "step": host.step,
        "projection": {
            n: {"target": p.target, "raw_cost": p.raw_cost, "cost": p.cost, "raw": p.raw.to_json()}
            | ({"limits": p.limits} if p.limits else {})
            for n, p in projections.items()
        },
    }
    write_shapes(out / "members.json", shapes, report, host)
    if host.first:
        misses = ", ".join(f"{n}: raw {p.raw_cost / p.target - 1:+.1%}, projected {p.cost / p.target - 1:+.1%}"
                           for n, p in projections.items())  # fmt: skip
        print(f"  shapes frozen at step {host.step} ({misses})", flush=True)


def refresh_members(family: FamilyTraining, host: Host) -> None:
    """Let the sliced micro-batches before the freeze train what the router chooses by now."""
    router, members = family.config.router, family.members
    due = host.step > 0 and host.step % REFRESH == 0
    if due and router is not None and router.soft_share < 1 and members.router is not None and not members.is_frozen:
        members.put([p.member for p in members.router.family().values()], frozen=False)


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


def _progress(host: Host, what: str) -> Any:
    def show(phase: str, done: int, total: int) -> None:
        if host.first and (done == total or done % max(1, total // 4) == 0):
            print(f"  {what}: {phase} {done}/{total or '?'}", flush=True)

    return show


def _search_progress(host: Host) -> Any:
    def show(done: int, total: int, best: Any) -> None:
        if host.first and (done == total or done % max(1, total // 5) == 0):
            print(f"  search: {done}/{total} candidates", flush=True)

    return show
