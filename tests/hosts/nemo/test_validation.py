# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which micro-batches a validation runs; no training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.nemo


def test_every_member_runs_on_each_batch_of_data() -> None:
    from nemo_elastic.config.sections import DistillConfig
    from nemo_elastic.train.heldout import HeldOut

    heldout, data = HeldOut(DistillConfig()), iter([{"tokens": 1}, {"tokens": 2}])
    heldout.begin(["full", "small"], [None, None])
    ran = [heldout.next(lambda: next(data)) for _ in range(4)]
    assert [(batch["tokens"], batch["member"]) for batch in ran] == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_step_takes_all_data_that_the_limit_allows() -> None:
    """NeMo's own takes as many micro-batches as a training step, and finds too few."""
    from nemo_elastic.hosts.nemo.callbacks import every_member

    step = SimpleNamespace(has_global_batch_sampler=False, data=SimpleNamespace(length=8, fetched=0))
    step.num_microbatches = 48
    every_member(step, 3)
    assert step.num_microbatches == 24


def test_a_global_batch_of_fine_tuning_is_split_as_in_training() -> None:
    from nemo_elastic.hosts.nemo.callbacks import every_member

    step: Any = SimpleNamespace(has_global_batch_sampler=True, num_microbatches=2, seq_length=64)
    step.get_data_iterator_and_seq_length = lambda: ([iter("ab")], 32)
    every_member(step, 3)
    assert (step.num_microbatches, step.seq_length, step.has_global_batch_sampler) == (6, 32, False)
    assert list(step.data[0]) == ["a", "b"]
