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

#: sequences at once, and tokens of a sequence or a text
BATCH, TOKENS = 10**6, 10**9
#: kinds of GPUs whose data sheets are known
Gpu = Enum("Gpu", {"a100": "a100", "h100": "h100", "h200": "h200", "b200": "b200", "gb200": "gb200"}, type=str)
#: formats of this package that members and whole models are written in; installed packages add more (`writer`)
FORMATS = "<hf|gguf|nemo|megatron>"


def number(name: str, help: str, low: float = 1, high: float = TOKENS, panel: str | None = None) -> Any:
    """An option for a number between two bounds, both allowed."""
    return typer.Option(name, min=low, max=high, callback=_number, help=help, rich_help_panel=panel, metavar="N")


def _number(value: Any) -> Any:
    """NaN is on neither side of a bound, so no bound refuses it."""
    if value != value:
        raise typer.BadParameter("nan is not a number")
    return value


#: help of `--data`
DATA = (
    "Text or conversations: .txt, .md, .rst, .py or .jsonl files, a folder of such files, or a folder of "
    "`nemo-elastic data`, whose held-out part is read."
)
#: the same where the training part is read
TRAINING = DATA.replace("held-out", "training")
SEQ_LENGTH = number("--seq-length", "Tokens per sequence.")
CONFIG = typer.Option("--config", help="YAML file with the `elastic:` block.")
#: groups of options in the help
SHAPE, SERVED = "Which shape", "How it is served"
PRE = typer.Option(
    "--pre", metavar="NAME",
    help="llama.cpp's name of the pre-tokenizer, for --format gguf; found from tokenizer.json if left out.",
)  # fmt: skip
BATCH_SERVED = number("--batch", "Sequences that are served at once, counted in the memory.", high=BATCH, panel=SERVED)
CONTEXT_SERVED = number("--context", "Tokens of each sequence, counted in the memory.", panel=SERVED)
GPUS = number("--gpus", "GPUs of the training: a part of a node of eight, or whole nodes.", high=2**18)
GPU = typer.Option("--gpu", help="Kind of these GPUs, with 85.0 or 150.1 GB by CUDA's count.")
PARAMS = typer.Option(
    "--params", metavar="COUNT", rich_help_panel=SHAPE,
    help="Largest shape with at most this number of parameters: 7e9, 7B.",
)  # fmt: skip
ACTIVE_PARAMS = typer.Option(
    "--active-params", metavar="COUNT", rich_help_panel=SHAPE,
    help="Largest shape in which a token uses at most this number of parameters: 2.8e9, 2.8B.",
)  # fmt: skip
LATENCY = typer.Option(
    "--latency", metavar="TABLE:TIME", rich_help_panel=SHAPE,
    help="Largest shape within this time by a table of `profile`: h100.json:12ms for a token, h100.json:0.6 for a "
    "share of the parent's time, h100.json:2s:request for a whole answer.",
)  # fmt: skip


def device(runs: str = "the family runs") -> Any:
    """`--device`: what runs on it, in words."""
    return typer.Option("--device", help=f"Device on which {runs}: cpu, cuda, cuda:1.")


def out(help: str = "The folder to write.") -> Any:
    """`--out`: what is written."""
    return typer.Option("--out", help=help)


def force(what: str = "an existing folder") -> Any:
    """`--force`: what it replaces, in words."""
    return typer.Option("--force", help=f"Replace {what}.")


def as_json(what: str = "the result") -> Any:
    """`--json`: what is printed, in words."""
    return typer.Option("--json", help=f"Print {what} as JSON.")


def refuse(context: typer.Context, why: str, *names: str) -> None:
    """Raise where one of some parameters was given that says nothing in this call, and `why`."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            written = next(p.opts[0] for p in context.command.params if p.name == name)
            raise ElasticError(why, written)


def print_json(value: Any) -> None:
    """What a command prints with `--json`."""
    typer.echo(json.dumps(value, indent=2))
