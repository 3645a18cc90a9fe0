# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ranks that share a model or its sequences against one: logits, loss, hidden states, every gradient, the ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import tensors
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import RankOptions
from nemo_elastic.ranking.measure import rank
from tests.support.ranks import spawn

from .models import build, leaves, load, objective, randomise, shard, softened, start, state_of, weights_of

pytestmark = [pytest.mark.nemo, pytest.mark.dist]
PARENT = Parent("M-M*-", 24, 32, 32, 8, 4, 4, 6, 4, 8, 4, 4, ffn_stripes=4, kv_heads_stripes=2)
MEMBER = PARENT.uniform(
    keep=[0, 1, 3, 4], hidden=12, ffn=16, mamba_heads=4, mamba_head_dim=3, attention_heads=4, kv_heads=2
)
#: positions, and tokens of a chunk of the loss
LENGTH, CHUNK = 16, 3
#: whole, sliced and soft, each over rows of one text and of several documents
WAYS = tuple(f"{packed}{way}" for packed in ("", "packed ") for way in ("whole", "sliced", "soft"))
DOCUMENTS = Documents(((3, 11, LENGTH), (1, 4, 9, LENGTH)))


def run(model: Any, data: dict[str, torch.Tensor], context: int = 1) -> dict[str, Any]:
    """In every way, with the whole model as the teacher."""
    from nemo_elastic.config.sections import DistillConfig
    from nemo_elastic.megatron.layers import MegatronLayers
    from nemo_elastic.megatron.vocabulary import distill_loss, hidden_states

    out: dict[str, Any] = {}
    config = DistillConfig(terms={"kl": 1.0, "ce": 0.4}, temperature=1.5, chunk_tokens=CHUNK)
    with torch.no_grad():
        taught = (model, hidden_states(model, data["tokens"]))
    for way in WAYS:
        choice: Any = softened(PARENT, MEMBER) if "soft" in way else MEMBER if "sliced" in way else None
        model.state.choice = choice
        model.zero_grad(set_to_none=True)
        hidden = hidden_states(model, data["tokens"], DOCUMENTS if "packed" in way else None)
        logits = MegatronLayers(model).head(hidden)
        with no_more_than_a_chunk():
            loss, losses_bs = distill_loss(config, (model, hidden), taught, data["labels"], data["weights"])
        # data parallelism takes the mean over the ranks of a sequence, each of which has its own positions' logits
        (loss + context * objective(logits)).backward()
        out[way] = {
            "hidden": hidden.detach(),
            "logits": logits.detach(),
            "loss": loss.detach(),
            "losses": losses_bs,
            "grads": {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in weights_of(model).items()},
            "gates": [t.grad for t in leaves(choice)],
        }
    model.state.choice = None
    out["ranking"] = ranking(model, data)
    return out


def no_more_than_a_chunk() -> Any:
    """No rank gathers hidden states of all tokens for the loss, nor their gradients."""
    real = torch.distributed.all_gather_into_tensor

    def watched(out: torch.Tensor, *args: Any, **more: Any) -> Any:
        assert out.numel() <= CHUNK * PARENT.hidden
        return real(out, *args, **more)

    return mock.patch.object(torch.distributed, "all_gather_into_tensor", watched)


def ranking(model: Any, data: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Of tokens that count for more or less, in rows of several documents."""
    from nemo_elastic.megatron.layers import MegatronLayers

    layers = MegatronLayers(model)
    rows = Rows(data["tokens"], data["weights"], DOCUMENTS)
    ranking = rank(layers, PARENT, [rows], RankOptions(depth_samples=2), shards=layers.shards)
    return {"scores": ranking.scores, "depth": ranking.depth, "depth scores": ranking.depth_scores}


def worker(rank: int, port: int, folder: Path, tensor: int, context: int, sequence_parallel: bool) -> None:
    from megatron.core import parallel_state

    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start(rank, tensor * context, tensor=tensor, port=port, context=context)
    saved = torch.load(folder / "state.pt", weights_only=False)
    model = build(PARENT, sequence_parallel=sequence_parallel)
    load(model, shard(PARENT, saved["state"], parallel_state.get_tensor_model_parallel_rank(), tensor))
    with cuda_as_cpu():
        torch.save(run(model, saved, context), folder / f"rank{rank}.pt")


def zigzag(rank: int, ranks: int) -> list[int]:
    """The positions of a rank, as megatron-core deals them out."""
    size = LENGTH // (2 * ranks)
    return [piece * size + i for piece in (rank, 2 * ranks - 1 - rank) for i in range(size)]


@pytest.mark.parametrize(
    ("tensor", "context", "sequence_parallel"),
    [(2, 1, False), (1, 4, False), (2, 2, True)],  # of four, two share each key-value head of the member
    ids=["tp2", "cp4", "cp2-tp2-sp"],
)
def test_ranks_equal_one(tmp_path: Path, tensor: int, context: int, sequence_parallel: bool) -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    model = build(PARENT)
    randomise(model)
    g = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, PARENT.vocab, (2, LENGTH), generator=g) for _ in range(2))
    data = {"tokens": tokens, "labels": labels, "weights": torch.rand(2, LENGTH, generator=g)}
    with cuda_as_cpu():
        want = run(model, data)
    torch.save({"state": state_of(model), **data}, tmp_path / "state.pt")
    spawn(worker, tmp_path, tensor, context, sequence_parallel, world=tensor * context)
    got = [torch.load(tmp_path / f"rank{r}.pt", weights_only=False) for r in range(tensor * context)]
    for actual in (each["ranking"] for each in got):
        assert actual["depth"] == want["ranking"]["depth"]
        assert actual["depth scores"][:-1] == pytest.approx(want["ranking"]["depth scores"][:-1], rel=1e-4)
        for name, wanted in want["ranking"]["scores"].items():
            np.testing.assert_allclose(actual["scores"][name], wanted, rtol=1e-4, atol=1e-6, err_msg=name)
    for way in WAYS:
        for number, each in enumerate(got):
            at, actual = zigzag(number // tensor, context), each[way]
            torch.testing.assert_close(actual["loss"], want[way]["loss"], rtol=1e-5, atol=0.0)
            torch.testing.assert_close(actual["losses"], want[way]["losses"][:, at], rtol=1e-5, atol=1e-5)
            logits = want[way]["logits"][:, at].chunk(tensor, -1)[number % tensor]
            torch.testing.assert_close(actual["logits"], logits, rtol=1e-5, atol=1e-5)
            hidden = want[way]["hidden"][at]
            hidden = hidden.chunk(tensor)[number % tensor] if sequence_parallel else hidden
            torch.testing.assert_close(actual["hidden"], hidden, rtol=1e-5, atol=1e-5)
        gradients_are_those(want[way], [each[way] for each in got], tensor, sequence_parallel)


def gradients_are_those(want: dict[str, Any], got: list[dict[str, Any]], tensor: int, sequence_parallel: bool) -> None:
    """Of weights and gates: the mean over the ranks of a sequence, each with its shard."""
    replicas = {t.megatron for t in tensors(PARENT, PARENT.full) if t.row.parallel is None}
    context = len(got) // tensor
    for t in range(tensor):
        each = got[t::tensor]
        for name, whole in shard(PARENT, want["grads"], t, tensor).items():
            # sequence-parallel ranks have seen a part of the tokens: megatron-core's finalize sums over them
            ranks = got if name in replicas and sequence_parallel else each
            grad = torch.stack([g["grads"][name] for g in ranks]).sum(0) / context
            torch.testing.assert_close(grad, whole, rtol=2e-4, atol=2e-5, msg=name)
        for i, whole in enumerate(want["gates"]):
            grad = torch.stack([g["gates"][i] for g in each]).mean(0)
            torch.testing.assert_close(grad, whole, rtol=2e-4, atol=2e-5)


def test_a_sequence_that_ranks_cannot_share_is_refused() -> None:
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.megatron.context import own_positions

    class Two:
        size = staticmethod(lambda: 2)
        rank = staticmethod(lambda: 1)

    assert own_positions(torch.arange(8)[None], Two()).tolist() == [[2, 3, 4, 5]]
    with pytest.raises(ElasticError, match="sequence length: 10 "):
        own_positions(torch.zeros(1, 10), Two())
