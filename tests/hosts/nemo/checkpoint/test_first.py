# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What fails on the first rank alone ends all of them at once, with its error."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.hosts.common.checkpoints import LIST
from tests.hosts.nemo.checkpoint import first_worker
from tests.support.ranks import spawn

pytestmark = [pytest.mark.nemo, pytest.mark.dist]


def test_no_rank_waits_for_a_first_that_failed(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "step=3-last" / LIST).mkdir(parents=True)
    spawn(first_worker.main, tmp_path)
    for name in ("ranked", "list"):
        first, second = ((tmp_path / f"{name}.{rank}").read_text() for rank in range(2))
        assert first == second and first.startswith("ElasticError: ")
