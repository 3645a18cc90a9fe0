# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers with experts on megatron-core 0.19 on four ranks that share them, against one: trained, ranked and sorted."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from nemo_elastic.core.family import Parent
from nemo_elastic.formats.adapter import to_megatron
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import RankOptions, sort
from nemo_elastic.ranking.measure import rank
from tests.shapes import LATENT, MOE
from tests.support.states import from_megatron
from tests.workers import free_port

from .models import build, leaves, load, logits_and_grads, shard, softened, start, state_of, weights_of
from .moe import made, member_of, tokens_of

pytestmark = [pytest.mark.nemo, pytest.mark.dist]
pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")

WORLD = 4
#: sequences that are ranked, and on how many of them depth is measured; ranks look at them in as many batches
SAMPLES, BATCHES = 12, 3
RANKED = RankOptions(depth_samples=4, hidden="basis")


class Ranks(NamedTuple):
    """A layout of four ranks: tensor-parallel ones, those that share experts, and those that share each of these."""

    parent: Parent
    tensor: int
    expert: int
    expert_tensor: int

    @property
    def data(self) -> int:
        return WORLD // self.tensor

    def share(self, t: torch.Tensor, rank: int) -> torch.Tensor:
        """A rank's sequences, which are dealt out in turn."""
        return t[rank // self.tensor :: self.data]

    def shard(self, whole: Mapping[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
        return shard(self.parent, whole, rank, self.tensor, self.expert, self.expert_tensor)


#: none both deals experts out and shards them: gloo has no all-gather of tensors that differ in size, as NCCL has
LAYOUTS = {
    "ep2": Ranks(MOE, 1, 2, 1),
    "ep4 latent": Ranks(LATENT, 1, 4, 1),
    "tp2+sp latent": Ranks(LATENT, 2, 1, 2),
    "tp2+sp ep4 latent": Ranks(LATENT, 2, 4, 1),
}


def worker(rank: int, port: int, folder: str) -> None:
    """One of four ranks: all layouts, one after the other."""
    from megatron.core import parallel_state

    for name, ranks in LAYOUTS.items():
        start(rank, WORLD, ranks.tensor, port, ranks.expert, ranks.expert_tensor)
        saved = torch.load(Path(folder) / f"{name}.pt")
        model = build(ranks.parent, sequence_parallel=ranks.tensor > 1)
        load(model, ranks.shard(saved["state"], rank))
        out = {"trained": trained(model.train(), ranks, ranks.share(saved["tokens"], rank))}
        out |= ranked(model.eval(), ranks, saved["samples"])
        torch.save(out, Path(folder) / f"{name} {rank}.pt")
        parallel_state.destroy_model_parallel()


def trained(model: Any, ranks: Ranks, tokens: torch.Tensor) -> dict[str, Any]:
    """Rank's share of a batch in every way; gradients summed over the ranks that see other tokens."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    parent, tensor, out = ranks.parent, ranks.tensor, {}
    member = member_of(parent)
    for way, choice in (("whole", None), ("sliced", member), ("soft", softened(parent, member))):
        z, grads = logits_and_grads(model, tokens, choice)
        for name, p in weights_of(model).items():
            if "local_experts" in name:  # over the ranks that hold the same experts
                dist.all_reduce(grads[name], group=parallel_state.get_expert_data_parallel_group())
            elif "expert_bias" not in name:
                dist.all_reduce(grads[name], group=parallel_state.get_data_parallel_group())
                if tensor > 1 and getattr(p, "sequence_parallel", False):
                    dist.all_reduce(grads[name], group=parallel_state.get_tensor_model_parallel_group())
        out[way] = {"logits": z, "grads": grads}
        out[way]["gates"] = [t.grad for t in leaves(choice)]  # also on ranks whose experts were sent no token
        for grad in out[way]["gates"]:
            dist.all_reduce(grad, group=parallel_state.get_data_parallel_group())
        counted = model.decoder.layers[1].mlp.router.local_tokens_per_expert.clone()
        dist.all_reduce(counted)
        out[way]["counted"] = counted
    model.state.choice = None
    return out


def rows_of(samples: torch.Tensor) -> list[Rows]:
    """Batches: of some rows only some tokens count, some have two documents, as their own tokens say."""
    weights = torch.where(samples[:, :1] % 2 == 0, samples % 3, 1).clamp(max=1.0)
    documents = Documents(tuple((3, 8) if row[1] % 2 else (8,) for row in samples.tolist()))
    return Rows(samples, weights, documents).split(len(samples) // BATCHES)


def ranked(model: Any, ranks: Ranks, samples: torch.Tensor) -> dict[str, Any]:
    """Rank and sort; what this rank then holds and gives."""
    import torch.distributed as dist

    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.megatron_host import MegatronHost

    host = MegatronHost(model.state, model)
    own = ranks.share(samples, dist.get_rank())
    with cuda_as_cpu(), torch.no_grad():
        actual = rank(
            host.layers(), ranks.parent, rows_of(own), RANKED, reduce=host.sum_over_data_ranks, shards=host.shards()
        )
        before = model(own, None, None)
        host.sort(actual)
        return {
            "scores": actual.scores, "orders": actual.orders, "depth": (actual.depth, actual.depth_scores),
            "before": before, "after": model(own, None, None), "sorted": host.weights(), "basis": actual.basis,
        }  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What one rank is given in every layout, and all ranks left."""
    place = tmp_path_factory.mktemp("ranks")
    start()
    for name, ranks in LAYOUTS.items():
        samples = torch.randint(0, ranks.parent.vocab, (SAMPLES, 8), generator=torch.Generator().manual_seed(2))
        given = {"state": state_of(made(ranks.parent)), "tokens": tokens_of(ranks.parent, 4), "samples": samples}
        torch.save(given, place / f"{name}.pt")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["nemo_elastic.megatron.spec"])  # once for all
    mp.start_processes(worker, (free_port(), str(place)), WORLD, start_method="forkserver")  # pyright: ignore[reportPrivateImportUsage]
    yield place
    shutil.rmtree(place)


def left(place: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the ranks were given, and what each left."""
    return torch.load(place / f"{name}.pt"), [
        torch.load(place / f"{name} {rank}.pt", weights_only=False) for rank in range(WORLD)
    ]


def together(ranks: Ranks, each: list[torch.Tensor]) -> torch.Tensor:
    """Logits of all ranks: each has its columns, and its sequences in turn."""
    rows = [torch.cat(each[at : at + ranks.tensor], -1) for at in range(0, WORLD, ranks.tensor)]
    return torch.stack(rows, 1).flatten(0, 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_equal_one(place: Path, name: str) -> None:
    ranks, (given, got) = LAYOUTS[name], left(place, name)
    model = made(ranks.parent).train()
    soft, wanted = softened(ranks.parent, member_of(ranks.parent)), {}
    for way, choice in (("whole", None), ("sliced", member_of(ranks.parent)), ("soft", soft)):
        wanted[way] = logits_and_grads(model, given["tokens"], choice)
    counted = model.decoder.layers[1].mlp.router.local_tokens_per_expert
    for way, (logits, grads) in wanted.items():
        each = [actual["trained"][way]["logits"] for actual in got]
        torch.testing.assert_close(together(ranks, each), logits, rtol=1e-5, atol=1e-5, msg=way)
        for at, result in enumerate(got):
            shares = ranks.shard(grads, at)
            for key, grad in result["trained"][way]["grads"].items():
                if "expert_bias" not in key:
                    torch.testing.assert_close(grad, shares[key], rtol=2e-4, atol=2e-5, msg=f"{way} {key}")
            assert torch.equal(result["trained"][way]["counted"], counted)
    for result in got:
        for a, b in zip(result["trained"]["soft"]["gates"], leaves(soft), strict=True):
            torch.testing.assert_close(a, b.grad, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_rank_and_sort_as_one(place: Path, name: str) -> None:
    """The orders of one rank, whose scores differ by rounding alone; experts and their neurons change ranks."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.layers import MegatronLayers

    ranks, (given, got) = LAYOUTS[name], left(place, name)
    parent, model = ranks.parent, made(ranks.parent).eval()
    with cuda_as_cpu():
        wanted = rank(MegatronLayers(model), parent, rows_of(given["samples"]), RANKED)
    before, wanted = from_megatron(parent, parent.full, given["state"]), replace(wanted, basis=got[0]["basis"])
    whole = to_megatron(parent, parent.full, sort(before, wanted, parent))
    for at, actual in enumerate(got):
        assert actual["depth"][0] == wanted.depth and actual["orders"].keys() == wanted.orders.keys()
        for key, order in wanted.orders.items():
            assert np.array_equal(actual["orders"][key], order), key
        for key, scores in wanted.scores.items():
            np.testing.assert_allclose(actual["scores"][key], scores, rtol=1e-5, atol=1e-7, err_msg=key)
        torch.testing.assert_close(actual["after"], actual["before"], rtol=1e-5, atol=1e-5)
        shares = ranks.shard(whole, at)
        assert actual["sorted"].keys() == shares.keys()
        assert np.array_equal(actual["basis"], wanted.basis)
        for key, value in actual["sorted"].items():
            torch.testing.assert_close(value, shares[key], msg=key)
    count, before = 8 // ranks.expert, parent.axis("experts").order_to_layout(wanted.orders["experts.1"])
    assert (before // count != np.arange(8) // count).any() == (ranks.expert > 1)
