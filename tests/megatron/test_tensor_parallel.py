# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Two gloo ranks against one: logits, weight gradients and gate gradients, with and without sequence parallelism."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import selection, tensors
from nemo_elastic.megatron.compat import named_parameters
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Gates, LayerGates
from tests.support.ranks import spawn

from .models import build, load, logits_and_grads, randomise, start

pytestmark = [pytest.mark.nemo, pytest.mark.dist]
PARENT = Parent("M-M*-", 24, 32, 32, 8, 4, 4, 6, 4, 8, 4, 4, ffn_stripes=4, kv_heads_stripes=2)
MEMBER = PARENT.uniform(
    keep=[0, 1, 3, 4], hidden=12, ffn=16, mamba_heads=4, mamba_head_dim=3, attention_heads=2, kv_heads=2
)


def shard(parent: Parent, state: Mapping[str, torch.Tensor], rank: int, world: int) -> dict[str, torch.Tensor]:
    """One rank's share of whole Megatron tensors: of every part its own blocks."""
    out = dict(state)
    for t in tensors(parent, parent.full):
        dim = t.row.parallel
        if dim is None:
            continue
        whole = state[t.megatron]
        if t.row.name.startswith("attention.") and dim == 0:
            n = whole.shape[0] // world
            out[t.megatron] = whole[rank * n : (rank + 1) * n]
            continue
        index = t.layer.index if t.layer is not None else None
        pieces, at = [], 0
        for part in selection(parent, t.row, dim, parent.full, parent.full, index).parts:
            n = part.size // world
            pieces.append(whole.narrow(dim, at + rank * n, n))
            at += part.size
        out[t.megatron] = torch.cat(pieces, dim)
    return out


def gates() -> Gates:
    """Soft gates that differ everywhere, leaves that want gradients."""
    hard = Gates.of(PARENT, MEMBER)
    g = torch.Generator().manual_seed(5)

    def soften(t: torch.Tensor) -> torch.Tensor:
        return (0.3 + 0.7 * torch.rand(t.shape, generator=g)).requires_grad_()

    layers = tuple(LayerGates(soften(x.keep), {a: soften(t) for a, t in x.widths.items()}) for x in hard.layers)
    return Gates(soften(hard.hidden), layers)


def gate_leaves(g: Gates) -> list[torch.Tensor]:
    return [g.hidden, *(t for x in g.layers for t in (x.keep, *x.widths.values()))]


def objective(z: torch.Tensor) -> torch.Tensor:
    """Separable over the vocabulary, so that a shard's share is its own sum."""
    w = torch.linspace(-1, 1, PARENT.vocab).view(1, 1, -1)
    rank = torch.distributed.get_rank() if z.shape[-1] < PARENT.vocab else 0
    n = z.shape[-1]
    return (z * w[..., rank * n : (rank + 1) * n]).sum() * 0.05 + z.square().sum() * 0.01


#: whole, sliced and soft, and the latter two over rows of several documents
WAYS = ("whole", "sliced", "soft", "packed sliced", "packed soft")
DOCUMENTS = Documents(((3, 8), (1, 4, 8)))


def run(model: object, tokens: torch.Tensor) -> dict:
    out = {}
    for name in WAYS:
        choice = gates() if "soft" in name else MEMBER if "sliced" in name else None
        z, grads = logits_and_grads(model, tokens, choice, objective, DOCUMENTS if "packed" in name else None)
        out[name] = {"logits": z, "grads": grads}
        if "soft" in name:
            out[name]["gates"] = [t.grad for t in gate_leaves(choice)]
    return out


def worker(rank: int, port: int, folder: Path, sequence_parallel: bool) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start(rank, 2, tensor=2, port=port)
    model = build(PARENT, sequence_parallel=sequence_parallel)
    saved = torch.load(folder / "state.pt")
    load(model, shard(PARENT, saved["state"], rank, 2))
    with cuda_as_cpu():
        torch.save(run(model, saved["tokens"]), folder / f"rank{rank}.pt")


@pytest.mark.parametrize(
    "sequence_parallel", [pytest.param(False, marks=pytest.mark.long), True], ids=["tp2", "tp2+sp"]
)
def test_two_ranks_equal_one(tmp_path: Path, sequence_parallel: bool) -> None:
    start()
    model = build(PARENT)
    randomise(model)
    tokens = torch.randint(0, PARENT.vocab, (2, 8), generator=torch.Generator().manual_seed(0))
    want = run(model, tokens)
    state = {n: p.detach().clone() for n, p in named_parameters(model)}
    torch.save({"state": state, "tokens": tokens}, tmp_path / "state.pt")
    spawn(worker, tmp_path, sequence_parallel)
    got = [torch.load(tmp_path / f"rank{r}.pt") for r in range(2)]
    replicas = {t.megatron for t in tensors(PARENT, PARENT.full) if t.row.parallel is None}
    for way in WAYS:
        logits = torch.cat([g[way]["logits"] for g in got], -1)
        torch.testing.assert_close(logits, want[way]["logits"], rtol=1e-5, atol=1e-5)
        for rank in range(2):
            for name, whole in shard(PARENT, want[way]["grads"], rank, 2).items():
                grad = got[rank][way]["grads"][name]
                if name in replicas and sequence_parallel:
                    # each rank saw half of the tokens; megatron-core's finalize sums these over ranks
                    grad = got[0][way]["grads"][name] + got[1][way]["grads"][name]
                torch.testing.assert_close(grad, whole, rtol=2e-4, atol=2e-5, msg=f"{way} {name}")
    for rank, way in itertools.product(range(2), ("soft", "packed soft")):
        for a, b in zip(got[rank][way]["gates"], want[way]["gates"], strict=True):
            torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)
