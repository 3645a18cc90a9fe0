# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.report import PAGE, build_report
from tests.report.fabricate import make_run
from tests.workers import copy_of


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Path:
    """The report of a run like the demo's, which is drawn once for all tests."""

    def draw(place: Path) -> None:
        build_report(make_run(place / "runs" / "demo"), place / "small")

    place = tmp_path_factory.mktemp("pages")
    copy_of("reports", draw, place, "small")
    return place / "small" / PAGE
