# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic data`: text to tokenizer and token files."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import counting, print_table
from nemo_elastic.data.folder import ChatFolder, DataFolder
from nemo_elastic.errors import ElasticError
from nemo_elastic.extras import require

#: what is done with a conversation that is too long
TooLong = Enum("TooLong", {"drop": "drop", "cut": "cut"}, type=str)

#: forms of packed conversations
Packed = Enum("Packed", {"npy": "npy", "parquet": "parquet"}, type=str)

_SOURCES = typer.Argument(
    show_default="the standard library of this Python",
    help="Text: .txt, .md, .rst or .py files, .jsonl files with a field `text`, or folders of such files; "
    "with --tokenizer also .jsonl files of conversations.",
)
_TOKENIZER = typer.Option(
    help="Folder of a Hugging Face tokenizer, or of a model with one. If left out, a small tokenizer is trained."
)
_LENGTH = options.number("--seq-length", "Tokens of a packed sequence, and most tokens of a conversation.", low=2)
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
    json: Annotated[bool, options.as_json("the folder's manifest")] = False,
) -> None:
    """Prepare text: train a tokenizer, mix in worked reasoning problems, write Megatron token files.

    With `--tokenizer` the command trains no tokenizer and mixes in no problems. It writes texts of any size as token
    files. It writes conversations as packed sequences, in which the loss counts the answers, beside the conversations
    themselves.

    Examples: `nemo-elastic data --out data`; with your own text
    `nemo-elastic data books/ notes.jsonl --out data`; with the tokenizer of a parent
    `nemo-elastic data chats.jsonl --tokenizer parent/ --out chats`.
    """
    if tokenizer is None:
        options.refuse(context, "belongs to --tokenizer, which is not given", "length", "too_long", "packed")
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
        options.print_json(made.to_json())
        return
    _print(out, made)


def _print(out: Path, folder: DataFolder | ChatFolder) -> None:
    if isinstance(folder, ChatFolder):
        for line in folder.lines():
            typer.echo(line)
        return
    rows = [
        {
            "split": name,
            "tokens": f"{info.tokens:,}",
            "documents": f"{info.documents:,}",
            "problems": f"{info.problems:,}",
            "problem share": f"{info.problem_tokens / info.tokens:.0%}",
        }
        for name, info in folder.splits.items()
    ]
    print_table(f"{out}: {folder.vocab_size} tokens of vocabulary, {folder.corpus.documents} texts", rows)
    typer.echo(f"{folder.held_out_problems} problems held out")
