# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ranks that share sequences out against one rank: loss, hidden states, gradients of weights and of gates, ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.core.layout import tensors
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Gates
from nemo_elastic.ranking import RankOptions, Rows, rank
from tests.support.ranks import spawn

from .models import build, load, named_parameters, randomise, start
from .test_tensor_parallel import PARENT as ELASTIC_KV
from .test_tensor_parallel import gate_leaves, gates, shard

pytestmark = [pytest.mark.nemo, pytest.mark.dist]
MEMBER = ELASTIC_KV.uniform(
    keep=[0, 1, 3, 4], hidden=12, ffn=16, mamba_heads=4, mamba_head_dim=3, attention_heads=4, kv_heads=2
)
LENGTH = 16
#: whole, sliced and soft, each over rows of one text and of several documents
WAYS = tuple(f"{packed}{way}" for packed in ("", "packed ") for way in ("whole", "sliced", "soft"))
DOCUMENTS = Documents(((3, 11, LENGTH), (1, 4, 9, LENGTH)))


def run(model: Any, data: dict[str, torch.Tensor]) -> dict[str, Any]:
    from nemo_elastic.config.sections import DistillConfig
    from nemo_elastic.megatron.vocabulary import distill_loss, hidden_states

    out: dict[str, Any] = {}
    for way in WAYS:
        choice: Any = gates() if "soft" in way else MEMBER if "sliced" in way else None
        model.state.choice = choice
        model.zero_grad(set_to_none=True)
        hidden = hidden_states(model, data["tokens"], DOCUMENTS if "packed" in way else None)
        loss, losses_bs = distill_loss(
            DistillConfig(mode="ce", chunk_tokens=3), (model, hidden), None, data["labels"], data["weights"]
        )
        loss.backward()
        out[way] = {
            "hidden": hidden.detach(),
            "loss": loss.detach(),
            "losses": losses_bs,
            "grads": {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named_parameters(model)},
            "gates": [t.grad for t in gate_leaves(choice)] if isinstance(choice, Gates) else [],
        }
    model.state.choice = None
    out["ranking"] = ranking(model, data)
    return out


def ranking(model: Any, data: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Of tokens that count for more or less, in rows of several documents."""
    from nemo_elastic.megatron.layers import MegatronLayers

    layers = MegatronLayers(model)
    rows = Rows(data["tokens"], data["weights"], DOCUMENTS)
    ranking = rank(layers, ELASTIC_KV, [rows], RankOptions(depth_samples=2), shards=layers.shards)
    return {"scores": ranking.scores, "depth": ranking.depth, "depth scores": ranking.depth_scores}


def worker(rank: int, port: int, folder: Path, tensor: int, context: int, sequence_parallel: bool) -> None:
    from megatron.core import parallel_state

    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start(rank, tensor * context, tensor=tensor, port=port, context=context)
    saved = torch.load(folder / "state.pt", weights_only=False)
    model = build(ELASTIC_KV, sequence_parallel=sequence_parallel)
    load(model, shard(ELASTIC_KV, saved["state"], parallel_state.get_tensor_model_parallel_rank(), tensor))
    with cuda_as_cpu():
        torch.save(run(model, saved), folder / f"rank{rank}.pt")


def zigzag(rank: int, ranks: int) -> list[int]:
    """The positions of a rank, as megatron-core deals them out."""
    size = LENGTH // (2 * ranks)
    return [piece * size + i for piece in (rank, 2 * ranks - 1 - rank) for i in range(size)]


@pytest.mark.parametrize(
    ("tensor", "context", "sequence_parallel"),
    [(1, 2, False), pytest.param(1, 4, False, marks=pytest.mark.long), (2, 2, True)],
    ids=["cp2", "cp4", "cp2-tp2-sp"],
)
def test_ranks_of_a_sequence_equal_one(tmp_path: Path, tensor: int, context: int, sequence_parallel: bool) -> None:
    """Of four ranks two share each key-value head of the member."""
    start()
    model = build(ELASTIC_KV)
    randomise(model)
    g = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, ELASTIC_KV.vocab, (2, LENGTH), generator=g) for _ in range(2))
    data = {"tokens": tokens, "labels": labels, "weights": torch.rand(2, LENGTH, generator=g)}
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    with cuda_as_cpu():
        want = run(model, data)
    state = {n: p.detach().clone() for n, p in named_parameters(model)}
    torch.save({"state": state, **data}, tmp_path / "state.pt")
    spawn(worker, tmp_path, tensor, context, sequence_parallel, world=tensor * context)
    got = [torch.load(tmp_path / f"rank{r}.pt", weights_only=False) for r in range(tensor * context)]
    replicas = {t.megatron for t in tensors(ELASTIC_KV, ELASTIC_KV.full) if t.row.parallel is None}
    for own in (each["ranking"] for each in got):
        assert own["depth"] == want["ranking"]["depth"]
        assert own["depth scores"][:-1] == pytest.approx(want["ranking"]["depth scores"][:-1], rel=1e-4)
        for name, wanted in want["ranking"]["scores"].items():
            np.testing.assert_allclose(own["scores"][name], wanted, rtol=1e-4, atol=1e-6, err_msg=name)
    for way in WAYS:
        for number in range(tensor * context):
            at, own = zigzag(number // tensor, context), got[number][way]
            torch.testing.assert_close(own["loss"], want[way]["loss"], rtol=1e-5, atol=0.0)
            torch.testing.assert_close(own["losses"], want[way]["losses"][:, at], rtol=1e-5, atol=1e-5)
            hidden = want[way]["hidden"][at]
            hidden = hidden.chunk(tensor)[number % tensor] if sequence_parallel else hidden
            torch.testing.assert_close(own["hidden"], hidden, rtol=1e-5, atol=1e-5)
        for t in range(tensor):  # data parallelism takes the mean over the ranks of a sequence
            each = [got[c * tensor + t][way] for c in range(context)]
            for name, whole in shard(ELASTIC_KV, want[way]["grads"], t, tensor).items():
                ranks = each
                if name in replicas and sequence_parallel:  # each saw a part of the tokens: a sum over tensor ranks
                    ranks = [got[r][way] for r in range(tensor * context)]
                grad = torch.stack([g["grads"][name] for g in ranks]).sum(0) / context
                torch.testing.assert_close(grad, whole, rtol=2e-4, atol=2e-5, msg=f"{way} {name}")
            for i, whole in enumerate(want[way]["gates"]):
                grad = torch.stack([g["gates"][i] for g in each]).mean(0)
                torch.testing.assert_close(grad, whole, rtol=2e-4, atol=2e-5)


def test_a_sequence_that_ranks_cannot_share_is_refused() -> None:
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.megatron.context import own_positions

    class Two:
        size = staticmethod(lambda: 2)
        rank = staticmethod(lambda: 1)

    assert own_positions(torch.arange(8)[None], Two()).tolist() == [[2, 3, 4, 5]]
    with pytest.raises(ElasticError, match="sequence length: 10 is not allowed; a multiple of 2 x context_parallel"):
        own_positions(torch.zeros(1, 10), Two())
