# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The shell of the command line: a table of commands, each imported only when it is called.

A command is a module `cli/cmd_<name>.py` with an object `command`: a function with typer annotations, or a
`typer.Typer` where a function is not enough (subcommands, context settings). It may import torch or NeMo inside the
function only, so that its own `--help` is quick too. Its docstring is the help text and shows an example.

Errors that a user can fix end in one line on stderr and exit code 2, with `--debug` after their traceback. A bug keeps
its traceback.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
import typer.core
import typer.main

from nemo_elastic import __version__
from nemo_elastic.errors import INTERRUPTED, ElasticError, environment_line, is_ctrl_c, one_line
from nemo_elastic.extras import missing

NAME = "nemo-elastic"
#: Text in square brackets, such as an extra's name, would vanish under rich markup; markdown keeps it.
MARKUP = "markdown"


class Row(NamedTuple):
    """A command: its module, its line of help in the overview, and the group that it stands in there."""

    module: str
    help: str
    group: str | None = None


#: group of the overview -> commands in the order in which a user meets them -> line of help
_GROUPS = {
    "Try it": {
        "init": "Make a family without training: `init --example` needs no model, data or GPU.",
        "demo": "Run the whole method at tiny size on this machine's CPU, with a report.",
    },
    "Cut, serve and talk": {
        "slice": "Cut members out of a family, by name or at any size.",
        "inspect": "List the members: parameters, memory, widths per layer.",
        "verify": "Check a family or a member, with figures.",
        "convert": "Convert a whole model between Hugging Face, NeMo and Megatron.",
        "quantize": "Write a family in NVFP4 or FP8, from which members are cut.",
        "chat": "Talk with the members of a family, which share one copy of the weights.",
        "serve": "Serve a family with vLLM: OpenAI's interface, each member a model.",
        "eval": "Measure perplexity, right answers and lm-eval tasks of every member.",
        "specialize": "Search a trained family for the best shape for a task.",
        "profile": "Measure the time of layers on this machine, for budgets in milliseconds.",
    },
    "Train": {
        "plan": "List the parallel layouts of a training run that fit, with the cost of a step.",
        "rehearse": "Run a large recipe's own jobs, scaled down, on this machine.",
        "data": "Prepare text and conversations: token files and packed sequences.",
        "train": "Train a family with any stock recipe of a Nemotron-H and an `elastic:` block.",
        "report": "Turn a run into one HTML page with plots.",
        "doctor": "Check releases, GPUs and kernels of this machine; print the schema of the `elastic:` block.",
    },
}
COMMANDS: dict[str, Row] = {
    name: Row(f"nemo_elastic.cli.cmd_{name}", help, group)
    for group, commands in _GROUPS.items()
    for name, help in commands.items()
}


def load_command(name: str) -> Any:
    """Import a command's module and build the click command, whose type differs between typer's versions."""
    command: typer.Typer | Callable[..., Any] = importlib.import_module(COMMANDS[name].module).command
    if not isinstance(command, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=MARKUP)
        app.command(name, no_args_is_help=False)(command)
        command = app
    return typer.main.get_command(command)


class LazyGroup(typer.core.TyperGroup):
    """A group that knows its commands' names and help lines, and imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Give the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Give a placeholder that is enough for the overview and for completion."""
        if cmd_name not in COMMANDS:
            return None
        row = COMMANDS[cmd_name]
        return typer.core.TyperCommand(
            cmd_name, help=row.help, rich_markup_mode=MARKUP, rich_help_panel=row.group or "Commands"
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Give the real command: this is the way to running it."""
        self.commands = {name: self.get_command(ctx, name) for name in COMMANDS}  # typer suggests from this
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the command line, with Ctrl-C reported: click would end without a word."""
        with errors_in_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run a command, with its errors in the user's words."""
        with errors_in_one_line(debug=ctx.params["debug"]):
            _check_current_folder()
            from nemo_elastic.plugins import load_plugins

            load_plugins()
            return super().invoke(ctx)


@contextmanager
def errors_in_one_line(debug: bool = False) -> Iterator[None]:
    """Turn what a user can fix into one line on stderr and the exit code; with `debug` after its traceback."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as exc:
        stopped = isinstance(exc, SystemExit) and exc.code == INTERRUPTED  # a training that has saved its state
        if not stopped and not is_ctrl_c(exc):
            raise
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as exc:
        line = _line(exc)
        if line is None:
            raise
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {one_line(line)}", err=True)
        raise typer.Exit(2) from None


def _line(exc: Exception) -> str | None:
    """What a user is told of an error; None for a bug."""
    if isinstance(exc, ElasticError):
        return str(exc)
    if isinstance(exc, OSError):
        return environment_line(exc)
    if isinstance(exc, ModuleNotFoundError):
        return missing(exc)
    # by its method: typer has click's errors in a module of its own since 0.26
    tell = getattr(exc, "format_message", None)
    return None if tell is None or type(exc).__name__ == "NoArgsIsHelpError" else tell()


def _check_current_folder() -> None:
    """Libraries ask for it when they are imported, and fail each in a way of its own."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ElasticError("the current folder was deleted; change into one that exists") from None


def _version(value: bool) -> None:
    if value:
        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup, name=NAME, no_args_is_help=True, rich_markup_mode=MARKUP,
    context_settings={"help_option_names": ["-h", "--help"]},  # commands inherit it
)  # fmt: skip


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
    debug: bool = typer.Option(False, "--debug", help="Print an error's traceback, too. Give it before the command."),
) -> None:
    """Turn one Nemotron-H into a family of nested models; cut any member out without training.

    Start with `nemo-elastic init --example --out family/`. Each command shows an example with `--help`.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        argv: The arguments after the program's name; None takes them from the process.

    Raises:
        SystemExit: Always: 0 when fine, 2 for bad input, 130 after Ctrl-C, what the command chose otherwise.
    """
    for stream in (sys.stdout, sys.stderr):  # a locale without UTF-8 must not end a command
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="backslashreplace")
    typer.main.get_command(app).main(args=None if argv is None else list(argv), prog_name=NAME)
