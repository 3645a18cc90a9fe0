# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What members lose at the end of a rehearsal's job, on either host."""

from __future__ import annotations

from typing import Any

import torch

from nemo_elastic.megatron.family_step import FamilyStep
from nemo_elastic.megatron.gpt_tokens import dataset_tokens
from nemo_elastic.train.heldout import CE_SUM, TOKENS

from .short import SEQUENCES


def members_lose(steps: FamilyStep, dataset: Any) -> dict[str, Any]:
    """Cross-entropy of every member in nats per token, on held-out sequences, and these. All ranks call it.

    Args:
        steps: of the job's training.
        dataset: held-out sequences by number.
    """
    tokens_bl, labels_bl = dataset_tokens(dataset, SEQUENCES)
    mask_bl = torch.ones(tokens_bl.shape, device=tokens_bl.device)
    batch = {"tokens": tokens_bl, "labels": labels_bl, "loss_mask": mask_bl}
    sums = steps.sums(steps.family.members.get()[1:], [batch])
    names = [budget.name for budget in steps.family.config.budgets]
    losses = dict(zip(names, (sums[:, CE_SUM] / sums[:, TOKENS]).tolist(), strict=True))
    return {"losses": losses, "tokens": tokens_bl.tolist(), "labels": labels_bl.tolist()}
