# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, each defined once.

The highest values of counts are above any use and below what would fill a memory, hang, or leave 64 bits on the way.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import typer

from nemo_elastic.errors import ElasticError

__all__ = [
    "BATCH",
    "BATCH_SERVED",
    "CONFIG",
    "CONTEXT_SERVED",
    "DATA",
    "SEEDS",
    "TOKENS",
    "Dtype",
    "Format",
    "Gpu",
    "as_json",
    "device",
    "force",
    "out",
    "print_json",
    "refuse",
    "size_options",
    "within",
]

#: sequences at once, and tokens of a sequence or a text; the largest seed
BATCH, TOKENS, SEEDS = 10**6, 10**9, 2**53


def within(low: float, high: float, name: str, help: str) -> Any:
    """An option for a number between two bounds, both allowed, which the help shows."""
    return typer.Option(name, min=low, max=high, callback=_number, help=help)


def _number(value: Any) -> Any:
    """NaN is on neither side of a bound, so no bound refuses it."""
    if value != value:
        raise typer.BadParameter("nan is not a number")
    return value


class Gpu(str, Enum):
    """Kinds of GPUs whose data sheets are known."""

    h100 = "h100"
    h200 = "h200"


class Dtype(str, Enum):
    """Types of numbers of weights."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


class Format(str, Enum):
    """Formats of model folders."""

    hf = "hf"
    nemo = "nemo"
    megatron = "megatron"


_LATENCY = (
    "h100.json:12ms for a token, h100.json:0.6 for a share of the parent's time, h100.json:2s:request for a whole "
    "answer"
)
#: help of `--data`
DATA = (
    "Text or conversations: .txt, .md, .rst, .py or .jsonl files, a folder of such files, or a folder of "
    "`nemo-elastic data`, whose held-out part is read."
)
CONFIG = typer.Option("--config", help="YAML file with the `elastic:` block.")
BATCH_SERVED = within(1, BATCH, "--batch", "Sequences that are served at once, counted in the memory.")
CONTEXT_SERVED = within(1, TOKENS, "--context", "Tokens of each sequence, counted in the memory.")


def device(runs: str = "the family runs") -> Any:
    """`--device`: what runs on it, in words."""
    return typer.Option("--device", help=f"Device on which {runs}: cpu, cuda, cuda:1.")


def out(help: str = "The folder to write.", **more: Any) -> Any:
    """`--out`: what is written."""
    return typer.Option("--out", help=help, **more)


def force(what: str = "an existing folder") -> Any:
    """`--force`: what it replaces, in words."""
    return typer.Option("--force", help=f"Replace {what}.")


def as_json(what: str = "the result", more: str = "") -> Any:
    """`--json`: what is printed, in words."""
    return typer.Option("--json", help=f"Print {what} as JSON{more}.")


def size_options(shapes: str) -> tuple[Any, Any, Any]:
    """`--params`, `--active-params` and `--latency`.

    Args:
        shapes: What is looked for: "Shapes".
    """
    return (
        typer.Option("--params", help=f"{shapes} with at most this number of parameters: 7e9, 7B."),
        typer.Option(
            "--active-params", help=f"{shapes} in which a token uses at most this number of parameters: 2.8e9, 2.8B."
        ),
        typer.Option("--latency", help=f"{shapes} within this time by a table of `profile`: {_LATENCY}."),
    )


def refuse(context: typer.Context, why: str, *names: str) -> None:
    """Raise where one of some parameters was given that says nothing in this call.

    Args:
        context: The call.
        why: When the option says something.
        names: Names of parameters.

    Raises:
        ElasticError: With the option as it is written on the command line.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            written = next(p.opts[0] for p in context.command.params if p.name == name)
            raise ElasticError(why, written)


def print_json(value: Any) -> None:
    """What a command prints with `--json`."""
    typer.echo(json.dumps(value, indent=2))
