# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers with experts on megatron-core 0.19 against the reference in plain torch, and on four ranks against one."""

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

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import named, selection, tensors
from nemo_elastic.formats.adapter import from_megatron, to_megatron
from nemo_elastic.nn.gates import Choice, Gates, LayerGates
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.ranking import Ranking, RankOptions, Statistics, rank, sort
from nemo_elastic.ranking.layered import through
from nemo_elastic.ranking.orders import make_orders
from tests.shapes import LATENT, MOE

from .models import build, randomise, start
from .test_tensor_parallel import free_port

pytestmark = pytest.mark.nemo
pytest.importorskip("megatron.core.models.hybrid", reason="megatron-core 0.15 has no experts in a hybrid")
PARENTS = pytest.mark.parametrize("parent", [MOE, LATENT], ids=["plain", "latent"])


def member_of(parent: Parent) -> Subnet:
    """Every axis is cut, with other experts in the second layer that has them."""
    latent = {"latent": 6} if parent.has("latent") else {}
    small = parent.uniform([0, 1, 3, 4], hidden=12, mamba_heads=4, mamba_head_dim=3, attention_heads=2,
                           experts=4, expert_ffn=8, shared_ffn=12, **latent)  # fmt: skip
    last = parent.layer(4, experts=6, expert_ffn=6, shared_ffn=12, **latent)
    return Subnet(small.hidden, (*small.layers[:-1], last)).validate(parent)


def tokens_of(parent: Parent, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, parent.vocab, (batch, 8), generator=torch.Generator().manual_seed(0))


def made(parent: Parent, **config: Any) -> Any:
    """A model in which experts have biases, and are chosen by them, too."""
    model = build(parent, **config)
    randomise(model)
    with torch.no_grad():
        for seed, (name, bias) in enumerate(model.named_buffers()):
            if name.endswith("expert_bias"):
                bias.copy_(0.1 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    from nemo_elastic.megatron.compat import named_weights

    return dict(named_weights(model))


def softened(parent: Parent, member: Subnet) -> Gates:
    """Gates that differ everywhere, leaves that want gradients; the first layer's dropped experts stay dropped."""
    hard, g = Gates.of(parent, member), torch.Generator().manual_seed(5)

    def soften(axis: str, t: torch.Tensor, index: int) -> torch.Tensor:
        gate = 0.3 + 0.7 * torch.rand(t.shape, generator=g)
        return (gate * t if (axis, index) == ("experts", 1) else gate).requires_grad_()

    layers = tuple(
        LayerGates(soften("", x.keep, i), {a: soften(a, t, i) for a, t in x.widths.items()})
        for i, x in enumerate(hard.layers)
    )
    return Gates(soften("", hard.hidden, -1), layers)


def choice_of(parent: Parent, way: str) -> Choice:
    """What runs; of soft gates new ones."""
    member = member_of(parent)
    return {"whole": None, "sliced": member, "hard": Gates.of(parent, member), "soft": softened(parent, member)}[way]


def leaves(gates: Gates) -> list[torch.Tensor]:
    return [gates.hidden, *(t for x in gates.layers for t in (x.keep, *x.widths.values()))]


def objective(z: torch.Tensor) -> torch.Tensor:
    w = torch.linspace(-1, 1, z.shape[-1]).view(1, 1, -1)
    return (z * w).sum() * 0.05 + z.square().sum() * 0.01


def ran(model: Any, tokens: torch.Tensor, choice: Choice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradients of all weights by megatron-core's names."""
    from nemo_elastic.megatron.platform.device import cuda_as_cpu

    model.state.choice = choice
    model.zero_grad(set_to_none=True)
    with cuda_as_cpu():
        z = model(tokens, None, None)
        objective(z).backward()
    grads = {n: torch.zeros_like(t) if t.grad is None else t.grad.clone() for n, t in weights_of(model).items()}
    return z.detach(), grads


@PARENTS
def test_logits_and_gradients_are_the_references_whole_sliced_and_gated(parent: Parent) -> None:
    start()
    model, tokens = made(parent), tokens_of(parent)
    hf = from_megatron(parent, parent.full, {n: t.detach().clone() for n, t in weights_of(model).items()})
    reference = NemotronH(parent, hf)
    for name in ("whole", "sliced", "hard", "soft"):
        own, other = (choice_of(parent, name) for _ in range(2))
        z, grads = ran(model, tokens, own)
        reference.zero_grad(set_to_none=True)
        want = reference(tokens, other)
        objective(want).backward()
        torch.testing.assert_close(z, want, rtol=1e-5, atol=1e-5, msg=name)
        found = from_megatron(parent, parent.full, grads)
        for key, weight in reference.named_parameters():
            if not key.endswith("e_score_correction_bias"):
                wanted = torch.zeros_like(weight) if weight.grad is None else weight.grad
                torch.testing.assert_close(found[key], wanted, rtol=1e-4, atol=1e-5, msg=f"{name} {key}")
        if isinstance(own, Gates) and name == "soft":
            assert isinstance(other, Gates)
            for a, b in zip(leaves(own), leaves(other), strict=True):
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


@PARENTS
def test_a_dropped_expert_is_sent_no_token_whatever_its_score_is(parent: Parent) -> None:
    start()
    model, member = made(parent), member_of(parent)
    router = model.decoder.layers[1].mlp.router
    kept = torch.from_numpy(selection(parent, row_of(parent, "moe.gate"), 0, parent.full, member, 1).mask())
    with torch.no_grad():
        router.expert_bias += torch.where(kept, 0.0, 5.0)  # all tokens of the whole model
    for choice in (None, member, Gates.of(parent, member), softened(parent, member)):
        model.state.choice = choice
        run = model.state.run(None, False)
        x = torch.randn(8, 2, run.subnet.hidden if run.subnet is not None else parent.hidden)
        weights, chosen = router(x, run, 1)
        assert chosen.sum(1).eq(2).all() and chosen[:, kept].any() == (choice is not None)
        assert not chosen[:, ~kept].any() or choice is None
        torch.testing.assert_close(weights.sum(1), torch.full((16,), 2.5))


def row_of(parent: Parent, name: str) -> Any:
    return next(row for kind in parent.kinds for row in kind.rows if row.name == name)


def test_the_balance_of_experts_is_that_of_the_whole_models_tokens() -> None:
    """A member's counts would push away the experts that it keeps; recomputation counts nothing twice."""
    from nemo_elastic.megatron.platform.device import cuda_as_cpu

    start()
    for recompute in (None, "full"):
        more = {} if recompute is None else {"recompute_method": "uniform", "recompute_num_layers": 1}
        model = made(MOE, recompute_granularity=recompute, **more)
        model.train()
        router = model.decoder.layers[1].mlp.router
        tokens, member = tokens_of(MOE), member_of(MOE)
        for choice in (member, Gates.of(MOE, member), softened(MOE, member)):
            ran(model, tokens, choice)
            assert not router.local_tokens_per_expert.any()
        ran(model, tokens, None)
        assert router.local_tokens_per_expert.sum() == 2 * tokens.numel()
        with torch.no_grad(), cuda_as_cpu():
            model(tokens, None, None)
        assert router.local_tokens_per_expert.sum() == 2 * tokens.numel()


@PARENTS
def test_a_cut_members_auxiliary_loss_differs_by_the_share_of_experts_alone(parent: Parent) -> None:
    """The stock losses count the parent's experts: those of a member are those of a model of its own, times E/e."""
    start()
    config = {"moe_router_load_balancing_type": "seq_aux_loss", "moe_aux_loss_coeff": 0.5}
    small = parent.uniform(experts=4)
    whole = made(parent, **config)
    own = replace(parent, more=dict(parent.more) | {"experts": 4})
    cut = build(own, **config)
    kept = [0, 1, 4, 5]
    state = weights_of(whole)
    with torch.no_grad():
        for name, value in weights_of(cut).items():
            for at, was in enumerate(kept):
                if f"local_experts.{at}." in name:
                    value.copy_(state[name.replace(f"local_experts.{at}.", f"local_experts.{was}.")])
            if "router" in name:
                value.copy_(state[name][kept])
            elif "local_experts" not in name:
                value.copy_(state[name])
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    def router_gradient(model: Any, choice: Choice, scale: float) -> torch.Tensor:
        MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(scale))
        return ran(model.train(), tokens_of(parent), choice)[1]["decoder.layers.1.mlp.router.weight"]

    plain, alone = router_gradient(whole, small, 0.0)[kept], router_gradient(cut, None, 0.0)
    torch.testing.assert_close(plain, alone, rtol=1e-4, atol=1e-5)
    found, wanted = router_gradient(whole, small, 1.0)[kept] - plain, router_gradient(cut, None, 1.0) - alone
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, 2 * wanted, rtol=1e-3, atol=1e-5)


@PARENTS
def test_a_probe_sees_what_the_references_sees(parent: Parent) -> None:
    from nemo_elastic.megatron.layers import MegatronLayers
    from nemo_elastic.megatron.platform.device import cuda_as_cpu
    from nemo_elastic.nn.forward import Layers

    start()
    model, tokens = made(parent).eval(), tokens_of(parent, 3)
    hf = from_megatron(parent, parent.full, {n: t.detach() for n, t in weights_of(model).items()})
    found, wanted = Statistics(parent), Statistics(parent)
    with torch.no_grad(), cuda_as_cpu():
        for layers, statistics in (
            (MegatronLayers(model), found),
            (Layers(NemotronH(parent, hf).weights(None)), wanted),
        ):
            through(layers, range(parent.num_layers), layers.embed(tokens), statistics)
    assert found.samples == wanted.samples
    for name, total in wanted.sums.items():
        torch.testing.assert_close(found.sums[name], total, rtol=1e-4, atol=1e-6, msg=name)


def test_a_checkpoint_of_a_member_is_what_megatron_loads(tmp_path: Path) -> None:
    from nemo_elastic.formats.registry import open_source
    from nemo_elastic.formats.torch_io import to_torch
    from nemo_elastic.megatron.load import load_model_weights
    from nemo_elastic.megatron.platform.device import cuda_as_cpu
    from nemo_elastic.megatron.write import write_megatron_checkpoint
    from tests.ranking.test_sorting import unstriped

    start()
    for parent in (unstriped(MOE), unstriped(LATENT)):
        model, out = made(parent), tmp_path / str(parent.has("latent"))
        own = from_megatron(parent, parent.full, {n: t.detach().clone() for n, t in weights_of(model).items()})
        write_megatron_checkpoint(out, parent, parent.full, own)
        source = open_source(out)
        assert source.parent == parent
        assert all(torch.equal(to_torch(raw), own[name]) for name, raw in source.tensors.items())
        other = build(parent, seed=1)
        with cuda_as_cpu():
            load_model_weights(other, out)
        assert all(torch.equal(value, weights_of(model)[name]) for name, value in weights_of(other).items())


@PARENTS
def test_sorted_where_it_lies_it_is_what_the_sorter_of_folders_makes(parent: Parent) -> None:
    from nemo_elastic.megatron.sorting import sort_in_place

    start()
    model, random = made(parent), np.random.default_rng(3)
    state = {n: t.detach().clone() for n, t in weights_of(model).items()}
    ranking = Ranking.trivial(parent)
    scores = {name: random.random(np.shape(order)) for name, order in ranking.orders.items()}
    ranking = replace(ranking, orders=make_orders(parent, scores))
    sort_in_place(weights_of(model), ranking, parent)
    wanted = sort(from_megatron(parent, parent.full, state), ranking, parent)
    found = from_megatron(parent, parent.full, weights_of(model))
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], t) for name, t in wanted.items())
    assert any(not torch.equal(found[name], t) for name, t in from_megatron(parent, parent.full, state).items())


# ------------------------------------------------------------------ ranks

WORLD = 4
#: sequences that are ranked, and on how many of them depth is measured; ranks look at them in as many batches
SAMPLES, BATCHES = 12, 3
RANKED = RankOptions(depth_samples=4)


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


#: none both deals experts out and shards them: gloo has no all-gather of tensors that differ in size, as NCCL has
LAYOUTS = {
    "ep2": Ranks(MOE, 1, 2, 1),
    "ep4 latent": Ranks(LATENT, 1, 4, 1),
    "tp2+sp latent": Ranks(LATENT, 2, 1, 2),
    "tp2+sp ep4 latent": Ranks(LATENT, 2, 4, 1),
}


def held(ranks: Ranks, whole: Mapping[str, torch.Tensor], rank: int) -> dict[str, Any]:
    """One rank's share of whole Megatron tensors: its experts, and of every part its own blocks."""
    out: dict[str, Any] = {}
    parent, count = ranks.parent, ranks.parent.size("experts") // ranks.expert
    for t in tensors(parent, parent.full):
        value, name, world = whole[t.megatron], t.megatron, ranks.tensor
        if t.number is not None:
            if t.number // count != rank // ranks.expert_tensor % ranks.expert:
                continue
            name, world = named(t.row.megatron, t.index, t.number % count), ranks.expert_tensor
        dim = t.row.parallel
        if dim is not None and world > 1:
            at = rank % world
            if t.row.name.startswith("attention.") and dim == 0:
                value = value.chunk(world, 0)[at]
            else:
                parts = selection(parent, t.row, dim, parent.full, parent.full, t.index).parts
                pieces = value.split([p.size for p in parts], dim)
                value = torch.cat([piece.chunk(world, dim)[at] for piece in pieces], dim)
        out[name] = value
    return out


def worker(rank: int, port: int, folder: str) -> None:
    """One of four ranks: all layouts, one after the other."""
    from megatron.core import parallel_state

    for name, ranks in LAYOUTS.items():
        start(rank, WORLD, ranks.tensor, port, ranks.expert, ranks.expert_tensor)
        saved = torch.load(Path(folder) / f"{name}.pt")
        model = build(ranks.parent, sequence_parallel=ranks.tensor > 1)
        with torch.no_grad():
            shares = held(ranks, saved["state"], rank)
            for key, value in weights_of(model).items():
                value.copy_(shares[key])
        out = {"trained": trained(model.train(), ranks, ranks.share(saved["tokens"], rank))}
        (Path(folder) / name).mkdir(exist_ok=True)
        out |= ranked(model.eval(), ranks, saved["samples"], Path(folder) / name)
        torch.save(out, Path(folder) / f"{name} {rank}.pt")
        parallel_state.destroy_model_parallel()


def trained(model: Any, ranks: Ranks, tokens: torch.Tensor) -> dict[str, Any]:
    """Rank's share of a batch in every way; gradients summed over the ranks that see other tokens."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    from nemo_elastic.megatron.platform.device import cuda_as_cpu

    parent, tensor, out = ranks.parent, ranks.tensor, {}
    member = member_of(parent)
    for way, choice in (("whole", None), ("sliced", member), ("soft", softened(parent, member))):
        model.state.choice = choice
        model.zero_grad(set_to_none=True)
        with cuda_as_cpu():
            z = model(tokens, None, None)
            n = z.shape[-1]
            at = parallel_state.get_tensor_model_parallel_rank() * n if n < parent.vocab else 0
            w = torch.linspace(-1, 1, parent.vocab).view(1, 1, -1)[..., at : at + n]
            ((z * w).sum() * 0.05 + z.square().sum() * 0.01).backward()
        for p in weights_of(model).values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        grads = {}
        for name, p in weights_of(model).items():
            if "local_experts" in name:  # over the ranks that hold the same experts
                dist.all_reduce(p.grad, group=parallel_state.get_expert_data_parallel_group())
            elif "expert_bias" not in name:
                dist.all_reduce(p.grad, group=parallel_state.get_data_parallel_group())
                if tensor > 1 and getattr(p, "sequence_parallel", False):
                    dist.all_reduce(p.grad, group=parallel_state.get_tensor_model_parallel_group())
            grads[name] = p.grad.clone()
        out[way] = {"logits": z.detach(), "grads": grads}
        if isinstance(choice, Gates):
            for t in leaves(choice):
                dist.all_reduce(t.grad, group=parallel_state.get_data_parallel_group())
            out[way]["gates"] = [t.grad for t in leaves(choice)]
        counted = model.decoder.layers[1].mlp.router.local_tokens_per_expert.clone()
        dist.all_reduce(counted)
        out[way]["counted"] = counted
        seen: list[str] = []
        model.state.probe = lambda site, *_, seen=seen: seen.append(site)  # as a search for what is not finite looks
        with cuda_as_cpu(), torch.no_grad():
            model(tokens, None, None)
        model.state.probe = None
        assert "layer_out" in seen and ("routed" in seen) == (way != "sliced")
    model.state.choice = None
    return out


def ranked(model: Any, ranks: Ranks, samples: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Rank, and again from where two ranks that were killed had come; sort; what this rank then holds and gives."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    from nemo_elastic.megatron.host import MegatronHost
    from nemo_elastic.megatron.platform.device import cuda_as_cpu

    host, at = MegatronHost(model.state, model), dist.get_rank()
    own = ranks.share(samples, at)
    unfinished = host.unfinished(folder)
    unfinished.every = 0.0
    kept = folder / f"kept {at}"

    def watch(phase: str, done: int, total: int) -> None:
        """Before what was measured is written down: after two batches, on some ranks after one."""
        if phase == "widths" and done == 3 - parallel_state.get_data_parallel_rank() % 2 and unfinished.first:
            shutil.copy(unfinished.path, kept)

    def measured(progress: Any = None) -> Ranking:
        batches, more = own.split(len(own) // BATCHES), {"unfinished": unfinished, "shards": host.shards()}
        return rank(host.layers(), ranks.parent, batches, RANKED, progress, host.agree, **more)

    with cuda_as_cpu(), torch.no_grad():
        found = measured(watch)
        if unfinished.first:
            kept.rename(unfinished.path)
        dist.barrier()
        again = measured()
        before = model(own, None, None)
        host.sort(found)
        return {
            "scores": found.scores, "orders": found.orders, "depth": (found.depth, found.depth_scores),
            "again": again.scores, "depth again": (again.depth, again.depth_scores),
            "before": before, "after": model(own, None, None), "sorted": host.weights(),
        }  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What one rank is given in every layout, and all ranks left."""
    place = tmp_path_factory.mktemp("ranks")
    start()
    for name, ranks in LAYOUTS.items():
        state = {n: t.detach().clone() for n, t in weights_of(made(ranks.parent)).items()}
        samples = torch.randint(0, ranks.parent.vocab, (SAMPLES, 8), generator=torch.Generator().manual_seed(2))
        torch.save({"state": state, "tokens": tokens_of(ranks.parent, 4), "samples": samples}, place / f"{name}.pt")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["nemo_elastic.megatron.spec"])  # once for all
    mp.start_processes(worker, (free_port(), str(place)), WORLD, start_method="forkserver")
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


@pytest.mark.dist
@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_equal_one(place: Path, name: str) -> None:
    ranks, (given, got) = LAYOUTS[name], left(place, name)
    model = made(ranks.parent).train()
    soft, wanted = softened(ranks.parent, member_of(ranks.parent)), {}
    for way, choice in (("whole", None), ("sliced", member_of(ranks.parent)), ("soft", soft)):
        wanted[way] = ran(model, given["tokens"], choice)
    counted = model.decoder.layers[1].mlp.router.local_tokens_per_expert
    for way, (logits, grads) in wanted.items():
        each = [found["trained"][way]["logits"] for found in got]
        torch.testing.assert_close(together(ranks, each), logits, rtol=1e-5, atol=1e-5, msg=way)
        for at, found in enumerate(got):
            shares = held(ranks, grads, at)
            for key, grad in found["trained"][way]["grads"].items():
                if "expert_bias" not in key:
                    torch.testing.assert_close(grad, shares[key], rtol=2e-4, atol=2e-5, msg=f"{way} {key}")
            assert torch.equal(found["trained"][way]["counted"], counted)
    for found in got:
        for a, b in zip(found["trained"]["soft"]["gates"], leaves(soft), strict=True):
            torch.testing.assert_close(a, b.grad, rtol=2e-4, atol=2e-5)


@pytest.mark.dist
@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_rank_and_sort_as_one(place: Path, name: str) -> None:
    """The orders of one rank, whose scores differ by rounding alone; experts and their neurons change ranks."""
    from nemo_elastic.megatron.layers import MegatronLayers
    from nemo_elastic.megatron.platform.device import cuda_as_cpu

    ranks, (given, got) = LAYOUTS[name], left(place, name)
    parent, model = ranks.parent, made(ranks.parent).eval()
    with cuda_as_cpu():
        wanted = rank(MegatronLayers(model), parent, given["samples"].split(SAMPLES // BATCHES), RANKED)
    hf = sort(from_megatron(parent, parent.full, given["state"]), wanted, parent)
    whole = to_megatron(parent, parent.full, hf)
    for at, found in enumerate(got):
        assert found["depth"][0] == wanted.depth and found["orders"].keys() == wanted.orders.keys()
        for key, order in wanted.orders.items():
            assert np.array_equal(found["orders"][key], order), key
        for key, scores in wanted.scores.items():
            np.testing.assert_allclose(found["scores"][key], scores, rtol=1e-5, atol=1e-7, err_msg=key)
        torch.testing.assert_close(found["after"], found["before"], rtol=1e-5, atol=1e-5)
        shares = held(ranks, whole, at)
        assert found["sorted"].keys() == shares.keys()
        assert all(torch.equal(value, shares[key]) for key, value in found["sorted"].items())
    count, before = 8 // ranks.expert, parent.axis("experts").order_to_layout(wanted.orders["experts.1"])
    assert (before // count != np.arange(8) // count).any() == (ranks.expert > 1)


@pytest.mark.dist
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_killed_ranking_goes_on_where_its_ranks_had_come_differently_far(place: Path, name: str) -> None:
    for found in left(place, name)[1]:
        assert found["depth again"] == found["depth"]
        assert all(np.array_equal(scores, found["scores"][key]) for key, scores in found["again"].items())
