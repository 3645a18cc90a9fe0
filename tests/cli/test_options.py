# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Options that are counts say their bounds in one line, before anything is done."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.testing import CliRunner

from nemo_elastic.cli.options import number


def test_bounds_are_allowed_and_in_the_help_and_others_are_refused_before_anything_is_done() -> None:
    done = []

    def command(heat: Annotated[float, number("--heat", "How hot.", low=0, high=2)] = 1) -> None:
        done.append(heat)

    app = typer.Typer()
    app.command()(command)
    for heat in (0, 0.7, 2):
        assert CliRunner().invoke(app, ["--heat", str(heat)]).exit_code == 0
    for heat in ("-0.1", "2.5", "nan", "inf", "hot"):
        assert CliRunner().invoke(app, ["--heat", heat]).exit_code == 2, heat
    assert done == [0, 0.7, 2]
    assert "How hot." in CliRunner().invoke(app, ["--help"]).output
