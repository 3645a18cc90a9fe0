# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Print docs/commands.md: every command with its arguments and options, as `--help` has them.

`.venv/bin/python tools/command_reference.py > docs/commands.md`; a test compares. Every word is a command's own, so
its module is the place to change it.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from nemo_elastic.cli.app import COMMANDS, NAME

HEAD = f"""# Commands

Every command with its arguments and options, as `{NAME} COMMAND --help` prints them. These rules hold for all:

- Bad input ends in one line on stderr and exit code 2. [Large runs](large_runs.md) lists the exit codes.
- With `--json`, stdout has JSON and nothing else.
- An output is written beside its place and then renamed, so it is complete or absent. An output that exists is
  refused without `--force`, which replaces only an output of the same command. `demo` and `rehearse` fill their
  folder while they run.
- An output must not contain an input of the command, or lie inside one. A command checks this before it computes.
- YAML files may refer to their own values (`${{a.b}}`). Resolvers such as `${{oc.env:HOME}}` are refused.
- A source is a family, a member, a Nemotron-H folder, an id on the Hugging Face hub or, with `[runtime]`, a checkpoint
  of NeMo or Megatron.
"""
NAMES = {str: "text", int: "integer", float: "number", Path: "path"}


def functions(name: str, command: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """A command's function, or that of each of its subcommands, with its full name."""
    if not isinstance(command, typer.Typer):
        yield name, command
        return
    if command.registered_callback is not None and command.registered_callback.callback is not None:
        yield name, command.registered_callback.callback
    for sub in command.registered_commands:
        assert sub.callback is not None
        own = sub.name or sub.callback.__name__
        yield (name if len(command.registered_commands) == 1 else f"{name} {own}"), sub.callback


def cell(text: str) -> str:
    """One line of a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def value_of(hint: Any) -> str:
    """What a value is: a type's name, or the words that are allowed."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(value_of(each) for each in get_args(hint) if each is not type(None))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " ".join(f"`{each.value}`" for each in hint)
    if get_origin(hint) in (list, tuple):
        return f"{value_of(get_args(hint)[0])} …"
    return "" if hint is bool else NAMES.get(hint, getattr(hint, "__name__", "text"))


def rows(function: Callable[..., Any]) -> Iterator[str]:
    """Arguments, then options, in the order in which they are declared."""
    lines: list[tuple[bool, str]] = []
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        hint, *more = get_args(hints[parameter.name]) if hasattr(hints[parameter.name], "__metadata__") else (None,)
        info = next((each for each in more if isinstance(each, (ArgumentInfo, OptionInfo))), None)
        if info is None or info.hidden:
            continue
        option = isinstance(info, OptionInfo)
        # of an annotation typer takes the first name for a default
        given = (*([info.default] if isinstance(info.default, str) else []), *(info.param_decls or ()))
        names = (given or (f"--{parameter.name.replace('_', '-')}",)) if option else (parameter.name,)
        default = parameter.default
        if default is inspect.Parameter.empty:
            value = "required"
        else:
            value = "" if default in (None, False, ()) or default == [] else f"`{getattr(default, 'value', default)}`"
        named = ", ".join(f"`{one}`" for name in names for one in name.split("/"))  # --on/--off
        lines.append((option, f"| {named} | {value_of(hint)} | {value} | {cell(info.help or '')} |"))
    yield from (line for option, line in sorted(lines, key=lambda each: each[0]))


def page() -> str:
    parts = [HEAD]
    for name, entry in COMMANDS.items():
        command = importlib.import_module(entry.module).command
        for full, function in functions(name, command):
            text = inspect.cleandoc(function.__doc__ or "").replace("\b\n", "")
            parts.append(f"## {full}\n\n{text}\n")
            table = list(rows(function))
            if table:
                parts.append(
                    "\n".join(["| Option | Value | Default | Meaning |", "| --- | --- | --- | --- |", *table])
                )
                parts[-1] += "\n"
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
