# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic data`: text to tokenizer and token files."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from nemo_elastic.cli import options
from nemo_elastic.cli.options import TOKENS, as_json, print_json, refuse, within
from nemo_elastic.cli.show import counting
from nemo_elastic.data.folder import ChatFolder, DataFolder
from nemo_elastic.errors import ElasticError, printable
from nemo_elastic.extras import require

__all__ = ["command"]


class TooLong(str, Enum):
    """What is done with a conversation that is too long."""

    drop = "drop"
    cut = "cut"


class Packed(str, Enum):
    """Forms of packed conversations."""

    npy = "npy"
    parquet = "parquet"


_SOURCES = typer.Argument(
    show_default="the standard library of this Python",
    help="Text: .txt, .md, .rst or .py files, .jsonl files with a field `text`, or folders of such files; "
    "with --tokenizer also .jsonl files of conversations.",
)
_TOKENIZER = typer.Option(
    help="Folder of a Hugging Face tokenizer, or of a model with one. If left out, a small tokenizer is trained."
)
_LENGTH = within(2, TOKENS, "--seq-length", "Tokens of a packed sequence, and most tokens of a conversation.")
_PACKED = typer.Option(help="Form of packed conversations: npy for NeMo, parquet for Megatron-Bridge.")


def command(
    context: typer.Context,
    out: Annotated[Path, options.out()],
    sources: Annotated[list[Path] | None, _SOURCES] = None,
    tokenizer: Annotated[Path | None, _TOKENIZER] = None,
    length: Annotated[int, _LENGTH] = 4096,
    too_long: Annotated[TooLong, typer.Option(help="Drop or cut conversations above --seq-length.")] = TooLong.drop,
    packed: Annotated[Packed, _PACKED] = Packed.npy,
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, as_json("the folder's manifest")] = False,
) -> None:
    """Prepare text: train a tokenizer, mix in worked reasoning problems, write Megatron token files.

    With `--tokenizer` the command trains no tokenizer and mixes in no problems. It writes texts of any size as token
    files. It writes conversations as packed sequences, in which the loss counts the answers, beside the conversations
    themselves.

    Examples: `nemo-elastic data --out data`; with your own text
    `nemo-elastic data books/ notes.jsonl --out data`; with the tokenizer of a parent
    `nemo-elastic data chats.jsonl --tokenizer parent/ --out chats`.
    """
    started = time.monotonic()
    if tokenizer is None:
        refuse(context, "belongs to --tokenizer, which is not given", "length", "too_long", "packed")
        require("reasoning_gym")  # its extra brings tokenizers too, which is imported first
    elif not sources:
        raise ElasticError("data: no sources; --tokenizer needs files or folders to tokenise")
    with counting("data", quiet=json) as bar:

        def tell(what: str, share: float) -> None:
            bar(round(100 * share), 100 if share else None, what)

        if tokenizer is not None:
            from nemo_elastic.data.prepare import prepare

            made = prepare(
                out, sources or (), tokenizer, length=length, too_long=too_long.value, packed=packed.value,
                force=force, progress=tell,
            )  # fmt: skip
        else:
            from nemo_elastic.data.build import build_data

            made = build_data(out, sources or (), force=force, progress=tell)
    if json:
        print_json(made.to_json())
        return
    _print(out, made, time.monotonic() - started)


def _print(out: Path, folder: DataFolder | ChatFolder, seconds: float) -> None:
    if isinstance(folder, ChatFolder):
        for line in folder.lines():
            typer.echo(line)
        typer.echo(f"{seconds:.1f} s")
        return
    sizes = f"{folder.vocab_size} tokens of vocabulary, {folder.corpus.documents} texts"
    table = Table(title=f"{printable(str(out))}: {sizes}")
    for header in ("split", "tokens", "documents", "problems", "problem share"):
        table.add_column(header, justify="left" if header == "split" else "right")
    for name, info in folder.splits.items():
        share = f"{info.problem_tokens / info.tokens:.0%}"
        table.add_row(name, f"{info.tokens:,}", f"{info.documents:,}", f"{info.problems:,}", share)
    console = Console(markup=False)
    console.print(table)
    console.print(f"{folder.held_out_problems} problems held out; {seconds:.1f} s")
