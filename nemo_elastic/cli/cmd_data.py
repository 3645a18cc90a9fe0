# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic data`: text and conversations to token files and packed sequences."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import counting, print_table
from nemo_elastic.data.folder import ChatFolder, DataFolder

#: what is done with a conversation that is too long
TooLong = Enum("TooLong", {"drop": "drop", "cut": "cut"}, type=str)

#: forms of packed conversations
Packed = Enum("Packed", {"npy": "npy", "parquet": "parquet"}, type=str)

_SOURCES = typer.Argument(
    help="Text: .txt, .md, .rst or .py files, .jsonl files with a field `text`, or folders of such files. Or .jsonl "
    "files of conversations.",
)
_TOKENIZER = typer.Option(help="Folder of a Hugging Face tokenizer, or of a model with one.")
_LENGTH = options.number("--seq-length", "Tokens of a packed sequence, and most tokens of a conversation.", low=2)
_PACKED = typer.Option(help="Form of packed conversations: npy for NeMo, parquet for Megatron-Bridge.")


def command(
    sources: Annotated[list[Path], _SOURCES],
    tokenizer: Annotated[Path, _TOKENIZER],
    out: Annotated[Path, options.out()],
    length: Annotated[int, _LENGTH] = 4096,
    too_long: Annotated[TooLong, typer.Option(help="Drop or cut conversations above --seq-length.")] = TooLong.drop,
    packed: Annotated[Packed, _PACKED] = Packed.npy,
    force: Annotated[bool, options.force()] = False,
    json: Annotated[bool, options.as_json("the folder's manifest")] = False,
) -> None:
    """Prepare text and conversations with a tokenizer: Megatron token files, packed sequences.

    The command writes texts of any size as token files; a file, or a line of a .jsonl file, is a document. It writes
    conversations as packed sequences, in which the loss counts the answers, beside the conversations themselves.

    Examples: `nemo-elastic data books/ notes.jsonl --tokenizer parent/ --out data`, and
    `nemo-elastic data chats.jsonl --tokenizer parent/ --out chats`.
    """
    from nemo_elastic.data.prepare import prepare

    with counting("data", quiet=json) as bar:
        made = prepare(
            out, sources, tokenizer, length=length, too_long=too_long.value, packed=packed.value, force=force,
            progress=lambda what, share: bar(round(100 * share), 100 if share else None, what),
        )  # fmt: skip
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
        }
        for name, info in folder.splits.items()
    ]
    print_table(f"{out}: {folder.vocab_size} tokens of vocabulary, {folder.corpus.documents} texts", rows)
