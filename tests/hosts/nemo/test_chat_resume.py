# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run that reads its packed conversations again and again is killed, and ends as if nobody had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hosts.nemo.chat_resume_worker import LAYOUT, STEPS, STOP
from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.long]


def test_a_killed_run_that_wraps_its_data_goes_on_as_an_uninterrupted_one(tmp_path: Path) -> None:
    work("tests.hosts.nemo.chat_resume_worker", tmp_path)
    facts = json.loads((tmp_path / "facts.json").read_text())
    whole, stopped = facts["whole"], facts["stopped"]
    assert whole["packed"] < STOP * LAYOUT.micro_batches < STEPS * LAYOUT.micro_batches <= whole["rows"]
    assert stopped["from"] == STOP and stopped["losses"] == whole["losses"][STOP:]
    assert stopped["state"] == whole["state"]
