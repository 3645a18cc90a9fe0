# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every option of every command that is a number has bounds, and says them in one line."""

from __future__ import annotations

import importlib
import inspect
from typing import Annotated, Any, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from nemo_elastic.cli import main
from nemo_elastic.cli.app import COMMANDS
from nemo_elastic.cli.options import number


def functions(name: str) -> list[Any]:
    """The functions behind a command; several where it is a group."""
    command = importlib.import_module(COMMANDS[name].module).command
    if not isinstance(command, typer.Typer):
        return [command]
    return [info.callback for info in command.registered_commands]


def numbers() -> list[tuple[str, str, type]]:
    """Command, option and type of everything that is a number, by the annotations of the functions."""
    out = []
    for name in COMMANDS:
        for function in functions(name):
            hints = get_type_hints(function, include_extras=True)
            for parameter in inspect.signature(function).parameters:
                kind, *_ = get_args(hints[parameter]) or [hints[parameter]]
                kinds = {kind, *get_args(kind)} & {int, float}
                if kinds:
                    extra = get_args(hints[parameter])[1:]
                    # typer takes the first name for a default until it knows that the option is an annotation
                    given = [d for one in extra for d in (one.default, *(one.param_decls or ()))]
                    flags = [flag for flag in given if isinstance(flag, str) and flag.startswith("--")]
                    out.append((name, next(iter(flags), f"--{parameter.replace('_', '-')}"), kinds.pop()))
    return out


NUMBERS = numbers()


def test_they_are_found() -> None:
    assert len(NUMBERS) >= 20 and ("slice", "--batch", int) in NUMBERS and ("chat", "--temperature", float) in NUMBERS


@pytest.mark.parametrize(("command", "option", "kind"), NUMBERS)
def test_every_number_has_bounds(command: str, option: str, kind: type, capsys: Any) -> None:
    """Also where everything else is missing: a bound is the first thing that is looked at."""
    for value in ("9" * 30, "-" + "9" * 30, *(["nan"] if kind is float else [])):
        with pytest.raises(SystemExit) as left:
            main([command, f"{option}={value}"])
        printed = capsys.readouterr()
        assert left.value.code == 2 and printed.out == ""
        assert printed.err.startswith(f"error: Invalid value for '{option}'") and printed.err.count("\n") == 1


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
