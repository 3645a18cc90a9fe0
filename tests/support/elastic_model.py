# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An ElasticMambaModel without trainer and data: its training step, on one process. For benchmarks and tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet
from tests.support.models import start


def settings(parent: Parent, length: int = 256) -> Any:
    """NeMo's config of a parent, for a CPU."""
    from nemo_elastic.formats.megatron.shape import stock_sizes
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

    return TinyNemotronH(**stock_sizes(parent, parent.full), seq_length=length)


def elastic_model(
    parent: Parent, block: dict[str, Any], members: list[Subnet] | None = None, teacher: Path | None = None
) -> Any:
    """The model, built and loaded, at step 0 of a stage of 100 steps.

    Args:
        parent: shape of the parent.
        block: the elastic block.
        members: shapes, which are frozen where the block has no router.
        teacher: NeMo checkpoint of the parent.
    """
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    tokenizer = SimpleNamespace(vocab_size=parent.vocab)
    path = None if teacher is None else str(teacher)
    model = ElasticMambaModel(settings(parent), block, teacher=path, stage_steps=100, tokenizer=tokenizer)
    with cuda_as_cpu():
        model.configure_model()
    if members is not None:
        model.members.put(members, frozen=model.members.router is None)
    model._trainer = SimpleNamespace(global_step=0)  # pyright: ignore[reportAttributeAccessIssue]
    return model.train()


def batch_of(parent: Parent, sequences: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens and labels; the loss of every fifth token does not count."""
    g = torch.Generator().manual_seed(seed)
    tokens, labels = torch.randint(0, parent.vocab, (2, sequences, length), generator=g)
    mask = torch.ones(sequences, length)
    mask[:, ::5] = 0
    return {"tokens": tokens, "labels": labels, "loss_mask": mask}
