# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which micro-batches a validation runs; no training."""

from __future__ import annotations

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.train.heldout import HeldOut


def test_every_member_runs_on_each_batch_of_data() -> None:
    heldout, data = HeldOut(DistillConfig()), iter([{"tokens": 1}, {"tokens": 2}])
    heldout.begin(["full", "small"], [None, None])
    ran = [heldout.next(lambda: next(data)) for _ in range(4)]
    assert [(batch["tokens"], batch["member"]) for batch in ran] == [(1, 0), (1, 1), (2, 0), (2, 1)]
