# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens out of a NeMo data module, for ranking and search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nemo_elastic.megatron.gpt_tokens import first_batches


def training_batches(trainer: Any, sequences: int, size: int, vocab: int | None = None) -> Iterator[torch.Tensor]:
    """`first_batches` of a trainer's training data."""
    return first_batches(trainer.datamodule._train_ds, sequences, size, vocab)
