# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The command `profile` measures briefly here."""

from __future__ import annotations

import pytest

from nemo_elastic.cli import cmd_profile
from nemo_elastic.profile.measure import Stop


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of the ends of each axis: nothing is known by it, and every part runs."""
    monkeypatch.setattr(cmd_profile, "WIDTHS", 2)
    monkeypatch.setattr(cmd_profile, "STOP", Stop(seconds=0))
