# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Training of a member's multi-token prediction (MTP) layers behind the frozen member.

Drafts are accepted as far as they agree with the member, so the target is the member's own next-token distribution,
not the text. The loss is KL(member || draft), as DistillSpec (arXiv 2310.08461) distils a draft model from the model
that it drafts for. The trunk is frozen, as in Medusa-1 (arXiv 2401.10774).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.loss_head import Head, head_loss
from nemo_elastic.nn.prediction import Predictor
from nemo_elastic.nn.rows import Rows

__all__ = ["draft_loss", "train_prediction"]

#: peak rate times the residual width: 3e-5 at 4,096, as EAGLE (arXiv 2401.15077) trains its draft layer, and 1e-3 at
#: 128, the width of the study on docs/evaluation.md
RATE = 0.128
#: share of the steps in which the rate rises; it then falls to a tenth
WARM = 0.05


def draft_loss(trunk: Layers, predictor: Predictor, rows: Rows) -> torch.Tensor:
    """Mean KL(member || draft) in nats, over the labels that count behind the second token of each row.

    Args:
        trunk: the member. It gets no gradient.
        predictor: its MTP layers.
        rows: inputs and their counts.
    """
    device, head = trunk.weights.embedding.device, trunk.weights.head.detach()
    own_bld, draft_bld = predictor.beside(trunk, rows.ids_bl.to(device))
    counts_t = rows.every_count()[:, 1:].flatten().to(device)
    total, _ = head_loss(Head(draft_bld.flatten(0, 1), head), Head(own_bld.flatten(0, 1), head), weights_t=counts_t)
    return total / counts_t.sum()


def train_prediction(trunk: Layers, predictor: Predictor, batches: Sequence[Rows]) -> Iterator[float]:
    """Train the tensors of `predictor` in place, a step for each batch; gives each step's loss.

    Experts' biases have no gradient and stay. `ElasticError` for a loss that is no number.
    """
    weights = [weight.requires_grad_() for weight in predictor.state.values()]
    optimizer = torch.optim.Adam(weights, betas=(0.9, 0.95))
    for step, rows in enumerate(batches):
        loss = draft_loss(trunk, predictor, rows)
        if not bool(loss.isfinite()):
            raise ElasticError("the loss of the MTP layers is not a number on this data; the weights are damaged")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        done = step / len(batches)
        rate = min(1.0, (done + 1 / len(batches)) / WARM) * (0.55 + 0.45 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate * RATE / predictor.member.hidden
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss.detach())
