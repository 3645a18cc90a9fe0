# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""From a parent in memory to members: rank, sort, search, start the router; later freeze what it found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state

from nemo_elastic.config import DistillConfig
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.family import DEPTH, MAMBA_HEAD_DIM, Subnet
from nemo_elastic.files import atomic_write
from nemo_elastic.formats.megatron.read import ELASTIC
from nemo_elastic.megatron.layers import Layers
from nemo_elastic.megatron.sorting import sort_in_place
from nemo_elastic.megatron.unfinished import UnfinishedTogether, unfinished_file
from nemo_elastic.ranking import Ranking, RankOptions, rank
from nemo_elastic.shapes import Space, search, uniform_family
from nemo_elastic.slicing.family_folder import read_members

from .data import training_batches, training_tokens
from .loss import distill_loss
from .model import ElasticMambaModel

#: what enters the teacher's head in the search is kept if it has at most this many elements, else computed anew
CACHE_ELEMENTS = 2**27
#: a candidate of the search is measured by it, whatever the run trains with
DIVERGENCE = DistillConfig()
#: steps between two looks at the router's choices, where sliced micro-batches train them before the freeze
REFRESH = 16


def prepare_members(trainer: Any, model: ElasticMambaModel, out: Path) -> None:
    """Rank (or load a ranking), sort the weights in place, find first shapes, start the router or freeze.

    All ranks call it, tensor-parallel or not, and find the same: those of one rank, but for rounding.

    Args:
        trainer: the Lightning trainer, with data and optimizer set up.
        model: an elastic model that holds the parent's weights, unsorted.
        out: folder that gets `ranking/` and `shapes.json`.

    Raises:
        ElasticError: a pipeline-parallel run, a ranking of another parent, an unreachable budget.
    """
    config = model.elastic_config
    check_pipeline(parallel_state.get_pipeline_model_parallel_world_size())
    model.eval()
    with torch.no_grad():
        ranking = obtain_ranking(trainer, model, out)
        sort_in_place(weights_of(model), ranking, model.parent, parallel_state.get_tensor_model_parallel_group())
        members = model.members
        space = model.space(model.parent, list(ranking.depth))
        space.check_budgets(config.budgets)
        found = find_shapes(trainer, model, space, out)
    unfinished_ranking(model, out).remove()
    model.train()
    if members.router is None:
        members.drop_order.copy_(torch.tensor(space.whole_drop_order))
    if members.router is not None and config.router is not None:
        members.router.space = space
        if config.search is not None:
            members.router.start_from(found, config.router.prior)
        members.put(list(found.values()), frozen=False)
    else:
        members.put(list(found.values()), frozen=True)
    for optimizer in trainer.optimizers:  # its fp32 copies still hold the unsorted weights
        optimizer.mcore_optimizer.reload_model_params()


def check_pipeline(stages: int, where: str = "") -> None:
    """Raise for pipeline stages, of which none has all layers; `where` stands before the setting's name."""
    if stages > 1:
        allowed = "1 for ranking and search; start runs in pipeline stages from a checkpoint with members"
        raise bad(f"{where}pipeline_model_parallel_size", stages, allowed)


def agreed_sum(t: torch.Tensor) -> torch.Tensor:
    """The sum over data-parallel ranks, on all ranks as rank 0 has it.

    Layers go and members are chosen by such sums: a rank with another last bit would go on alone.
    """
    torch.distributed.all_reduce(t, group=parallel_state.get_data_parallel_group())
    torch.distributed.broadcast(t, 0)
    return t


def weights_of(model: ElasticMambaModel) -> dict[str, torch.nn.Parameter]:
    """This rank's shards of the parent's tensors, by megatron-core's name."""
    return {k: p for k, p in model.hidden.core.named_parameters() if not k.startswith(ELASTIC)}


def obtain_ranking(trainer: Any, model: ElasticMambaModel, out: Path) -> Ranking:
    """The ranking named in the block, checked against the parent; or a new one, saved under `out`.

    Layers are dropped one by one down to the smallest depth of the block; those beyond are not measured. A new ranking
    goes on where an earlier run was killed.

    Raises:
        ElasticError: a ranking of another parent, or of fewer drops than the block's smallest depth needs.
        OtherRanking: an earlier run was killed that ranked another parent, on other data or otherwise.
    """
    config, parent = model.elastic_config, model.parent
    axes = config.resolve_axes(parent)
    smallest = axes[DEPTH].choices[-1]
    if config.ranking is not None:
        return Ranking.load(config.ranking, parent).check_depth(smallest, config.ranking)
    imp = config.importance
    options = RankOptions(
        ffn=imp.ffn,
        aggregation=imp.aggregation,
        depth=imp.depth,
        depth_samples=min(imp.depth_samples, imp.samples),
        depth_exact=max(1, parent.num_layers - smallest),
        # a head is worth what its channels are worth that every member keeps
        head_channels=axes[MAMBA_HEAD_DIM].choices[-1] if MAMBA_HEAD_DIM in axes else None,
    )
    sampler, layers = trainer.datamodule.data_sampler, Layers(model.hidden.core)
    ranking = rank(
        layers,
        parent,
        training_batches(trainer, imp.samples, sampler.micro_batch_size),
        options,
        progress=_progress(trainer, "ranking"),
        reduce=agreed_sum,
        provenance={"sequences": imp.samples, "length": sampler.seq_len},
        unfinished=unfinished_ranking(model, out),
        shards=layers.shards,
    )
    if trainer.is_global_zero:
        ranking.save(out / "ranking", force=True)
    return ranking


def unfinished_ranking(model: ElasticMambaModel, out: Path) -> UnfinishedTogether:
    """Where this rank's tensor-parallel group writes down what it has measured, until members are found.

    Raises:
        OtherRanking: an earlier run was killed that ran on other ranks.
    """
    group, rank = parallel_state.get_tensor_model_parallel_group(), parallel_state.get_data_parallel_rank()
    assert group is not None
    path = unfinished_file(out, group.size(), parallel_state.get_data_parallel_world_size(), rank)
    say = None if rank else lambda line: print(f"  {line}", flush=True)
    return UnfinishedTogether(path, lambda: weights_of(model).values(), group, say=say)


def find_shapes(trainer: Any, model: ElasticMambaModel, space: Space, out: Path) -> dict[str, Subnet]:
    """First shapes of every budget: given by file, found by the search, or the most even cuts."""
    config = model.elastic_config
    report: dict[str, Any]
    if config.shapes is not None:
        found = read_members(config.shapes, model.parent, config)
        report = {"source": config.shapes}
    elif config.search is not None:
        result = search(
            space,
            config.budgets,
            untrained_loss(trainer, model, config.search.tokens),
            candidates=config.search.candidates,
            seed=config.seed,
            progress=_search_progress(trainer),
        )
        found, report = result.members, result.to_json() | {"source": "search"}
    else:
        found, report = uniform_family(space, config.budgets), {"source": "uniform"}
    found = {b.name: found[b.name] for b in config.budgets}
    write_shapes(out / "shapes.json", found, report, trainer)
    return found


def untrained_loss(trainer: Any, model: ElasticMambaModel, tokens: int) -> Any:
    """Loss of a candidate: mean KL in nats per token from the whole model, on the first training sequences."""
    length = trainer.datamodule.data_sampler.seq_len
    data = training_tokens(trainer, max(1, tokens // length))
    size = trainer.datamodule.data_sampler.micro_batch_size
    chunks = data.split(size)
    keep = data.numel() * model.parent.hidden <= CACHE_ELEMENTS
    cache = [model.output(c) for c in chunks] if keep else []

    def loss(member: Subnet) -> float:
        total = torch.zeros(2, dtype=torch.float64, device=data.device)
        for i, chunk in enumerate(chunks):
            teacher = cache[i] if keep else model.output(chunk)
            kl, _ = distill_loss(DIVERGENCE, model.output(chunk, member), teacher, labels_bs=chunk)
            total += torch.tensor([float(kl), chunk.numel()], dtype=torch.float64, device=data.device)
        agreed_sum(total)
        return float(total[0] / total[1])

    return loss


def freeze_members(trainer: Any, model: ElasticMambaModel, out: Path) -> None:
    """Project the router's choices onto their budgets, nested in each other, and fix them for the rest of the run."""
    members = model.members
    if members.router is None:
        raise ElasticError("members: shapes are not frozen and there is no router that could choose them")
    projections = members.router.family()
    found = {b.name: projections[b.name].member for b in model.elastic_config.budgets}
    model.freeze(list(found.values()))
    report = {
        "source": "router",
        "step": trainer.global_step,
        "projection": {
            n: {"target": p.target, "raw_cost": p.raw_cost, "cost": p.cost, "raw": p.raw.to_json()}
            for n, p in projections.items()
        },
    }
    write_shapes(out / "members.json", found, report, trainer)
    if trainer.is_global_zero:
        misses = ", ".join(f"{n}: raw {p.raw_cost / p.target - 1:+.1%}, projected {p.cost / p.target - 1:+.1%}"
                           for n, p in projections.items())  # fmt: skip
        print(f"  shapes frozen at step {trainer.global_step} ({misses})", flush=True)


def refresh_members(trainer: Any, model: ElasticMambaModel) -> None:
    """Let the sliced micro-batches before the freeze train what the router chooses by now."""
    router, members = model.elastic_config.router, model.members
    due = trainer.global_step > 0 and trainer.global_step % REFRESH == 0
    if due and router is not None and router.soft_share < 1 and members.router is not None and not members.is_frozen:
        members.put([p.member for p in members.router.family().values()], frozen=False)


def write_shapes(path: Path, members: Mapping[str, Subnet], report: Mapping[str, Any], trainer: Any) -> None:
    """{"members": {name: subnet}, …}: what `elastic.shapes` reads."""
    if trainer.is_global_zero:
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


def _progress(trainer: Any, what: str) -> Any:
    def show(phase: str, done: int, total: int) -> None:
        if trainer.is_global_zero and (done == total or done % max(1, total // 4) == 0):
            print(f"  {what}: {phase} {done}/{total or '?'}", flush=True)

    return show


def _search_progress(trainer: Any) -> Any:
    def show(done: int, total: int, best: Any) -> None:
        if trainer.is_global_zero and (done == total or done % max(1, total // 5) == 0):
            print(f"  search: {done}/{total} candidates", flush=True)

    return show
