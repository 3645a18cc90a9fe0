# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rows → token ids → train and validation → a folder: texts and conversations by a tokenizer that is there already.

Texts are written as they are tokenised, so a corpus may be larger than memory. Conversations are packed, for which all
their token ids are in memory. `build` makes the demo's data with the same steps.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.extras import require
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.tokenizer import FamilyTokenizer, copy_tokenizer
from nemo_elastic.io.outputs import atomic_dir
from nemo_elastic.io.values import integer

from .encoded import CUT, DROP, Encoded, Tally, encode_rows, end_of
from .folder import (
    CHAT,
    CHAT_SPLITS,
    DATA,
    METADATA,
    PROBLEMS,
    TOKENIZER,
    ChatFolder,
    CorpusInfo,
    DataFolder,
    SplitInfo,
    digest_of_splits,
    problem_lines,
)  # fmt: skip
from .indexed import count, digest_of, write_indexed
from .packing import NAMES, NPY, PARQUET, pack, packed_rows, write_packed
from .reasoning import Problem
from .sources import HELD_OUT, Row, drawn, find_files, hold_out, holds_chat, read_rows, size_of

__all__ = ["Progress", "Split", "place_of_tokenizer", "prepare", "write_manifest", "write_splits"]

#: maximum bytes of held-out text: validation reads millions of tokens, not billions
_HELD_OUT_BYTES = 2**26

#: called with the name of the step and its finished share, from 0 to 1
Progress = Callable[[str, float], None]


def prepare(
    out: str | Path,
    sources: Sequence[str | Path],
    tokenizer: str | Path,
    *,
    length: int = 4096,
    too_long: str = DROP,
    packed: str = NPY,
    seed: int = 0,
    force: bool = False,
    progress: Progress = lambda what, share: None,
) -> DataFolder | ChatFolder:
    """Tokenise the user's texts or conversations. The same sources and arguments give the same bytes.

    Args:
        out: The folder to write; it appears when it is complete.
        sources: Files or folders, see `sources.find_files`: of texts alone, or of conversations alone.
        tokenizer: A folder with a tokenizer, or a model with one.
        length: Most tokens of a conversation and of a packed sequence; texts keep theirs.
        too_long: `drop` or `cut` a longer conversation.
        packed: Format of packed conversations: `npy` for NeMo, `parquet` for Megatron-Bridge.
        seed: Of the order of held-out texts, and of the packing.
        force: Replace an existing folder.
        progress: called with the name of the step and its finished share.

    Returns:
        A data folder of texts, a chat folder of conversations.

    Raises:
        ElasticError: For a value out of range, for sources that cannot be read, or if `out` exists.
    """
    _check(length, too_long, packed)
    place = place_of_tokenizer(Path(tokenizer))
    opened, files = FamilyTokenizer.read(place), find_files(sources)
    end, chat = end_of(opened, place), holds_chat(files)
    with atomic_dir(out, force, [*sources, tokenizer], CHAT if chat else DATA) as folder:
        copy_tokenizer(place, folder / TOKENIZER)
        size, tally, held_out = sum(size_of(path) for path, _ in files), Tally(), []
        limit = min(HELD_OUT, _HELD_OUT_BYTES * 2**64 // max(size, 1))
        documents = encode_rows(_rows(files, chat, size, progress), opened, end, tally, length, too_long)
        train = hold_out(documents, _content, limit, held_out)
        if chat:
            _write_chats(folder, {"train": train, "val": held_out}, opened, tally, length, too_long, packed, seed)
        else:
            splits = {"train": Split(d.ids for d in train), "val": Split(d.ids for d in drawn(held_out, seed))}
            infos = write_splits(folder, splits, opened.vocab_size)
            _check_enough(sum(info.documents for info in infos.values()), "documents", tally)
            corpus = CorpusInfo("files", tally.rows, size, digest_of_splits(infos))
            write_manifest(folder, infos, corpus, opened.vocab_size, seed)
        progress("writing", 1.0)
    return ChatFolder.open(out) if chat else DataFolder.open(out)


def _check(length: int, too_long: str, packed: str) -> None:
    integer("length", length, 2, "an integer from 2")
    if too_long not in (DROP, CUT):
        raise bad("too_long", too_long, "use drop or cut")
    if packed not in NAMES:
        raise bad("packed", packed, "use npy or parquet")
    if packed == PARQUET:
        require("pyarrow")


def place_of_tokenizer(folder: Path) -> Path:
    """The folder with `tokenizer.json`: of a tokenizer, a data folder, a model, or a checkpoint.

    Raises:
        ElasticError: no tokenizer was found.
    """
    for place in (folder, folder / TOKENIZER):
        if (place / "tokenizer.json").is_file():
            return place
    place = read_shapes(folder).companions or folder
    if not (place / "tokenizer.json").is_file():
        raise ElasticError(f"--tokenizer: {folder} has no tokenizer.json")
    return place


def _rows(files: Sequence[tuple[Path, str]], chat: bool, size: int, tell: Progress) -> Iterator[Row]:
    """Rows of one kind."""
    done = told = 0
    tell("tokenising", 0.0)
    for path, name in files:
        for row in read_rows(path, name):
            if (row.chat is not None) != chat:
                here, there = ("a text", "conversations") if chat else ("a conversation", "texts")
                raise ElasticError(
                    f"{row.where}: {here} among {there}; put texts and conversations into separate folders"
                )
            yield row
            if (percent := 100 * (done + row.end) // max(size, 1)) > told:
                tell("tokenising", (told := percent) / 100)
        done += size_of(path)


def _content(document: Encoded) -> str:
    """What decides the split: a copy of a document in another place or file is on the same side."""
    assert document.row is not None
    chat = document.row.chat
    return document.row.text if chat is None else json.dumps([chat.messages, chat.tools], sort_keys=True)


def _check_enough(documents: int, what: str, tally: Tally, length: int = 0, too_long: str = DROP) -> None:
    if documents < 2:
        allowed = "; ".join(("give at least two", *tally.lines(None, length, too_long)))
        raise bad("sources", f"{documents} {what} with tokens to learn from", allowed)


# ------------------------------------------------------------------ texts


@dataclass(frozen=True)
class Split:
    """The documents of a split as token ids, and how much of it is problems."""

    documents: Iterable[np.ndarray]
    problems: int = 0
    problem_tokens: int = 0


def write_splits(
    folder: Path, splits: Mapping[str, Split], vocab: int, tell: Progress = lambda what, share: None
) -> dict[str, SplitInfo]:
    """Write the token files of every split; returns their part of the manifest."""
    infos = {}
    for done, (name, split) in enumerate(splits.items()):
        tell("writing", done / len(splits))
        prefix = folder / name
        write_indexed(prefix, split.documents, vocab)
        infos[name] = SplitInfo(*count(prefix), split.problems, split.problem_tokens, digest_of(prefix))
    return infos


def write_manifest(
    folder: Path, splits: Mapping[str, SplitInfo], corpus: CorpusInfo, vocab: int, seed: int,
    reasoning: float = 0.0, problems: Sequence[Problem] = (),
) -> None:  # fmt: skip
    """Write the other files of a data folder (after token files and tokenizer), and check that it opens."""
    (folder / PROBLEMS).write_text(problem_lines(problems), encoding="utf-8")
    packages = ("tokenizers", "reasoning-gym") if reasoning else ("tokenizers",)
    DataFolder(
        path=folder, vocab_size=vocab, seed=seed, reasoning=float(reasoning), held_out_problems=len(problems),
        python=platform.python_version(), corpus=corpus, splits=splits,
        made_with={name: version(name) for name in packages},
    ).write()  # fmt: skip
    DataFolder.open(folder)


# ------------------------------------------------------------------ conversations


def _write_chats(
    folder: Path, splits: Mapping[str, Iterable[Encoded]], tokenizer: FamilyTokenizer, tally: Tally,
    length: int, too_long: str, packed: str, seed: int,
) -> None:  # fmt: skip
    """The hosts' rows, and packed sequences."""
    documents = {split: _write_rows(folder / f"{CHAT_SPLITS[split]}.jsonl", each) for split, each in splits.items()}
    _check_enough(sum(map(len, documents.values())), "conversations", tally, length, too_long)
    sequences, metadata = {}, []
    for split, each in documents.items():
        packs = pack([len(ids) for ids, _ in each], length, seed)
        rows = packed_rows(packs, each)
        write_packed(folder / CHAT_SPLITS[split], rows, packed)
        sequences[split] = len(rows)
        used = [len(row["input_ids"]) for row in rows]
        metadata.append(
            {
                "dataset_max_seqlen": max(len(ids) for ids, _ in each),
                "max_samples_per_bin": max(map(len, packs)),
                "packing_factor": round(len(each) / len(packs), 2),
                "packing_efficiency": round(100 * sum(used) / (len(rows) * length), 2),
                "pack_size": length,
                "min_packed_seqlen": min(used),
            }
        )
    (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    template = tokenizer.chat_template
    ChatFolder(
        path=folder, vocab_size=tokenizer.vocab_size, length=length, too_long=too_long, packed=packed,
        marked=template is None or template.marks_answers, seed=seed,
        conversations={split: len(each) for split, each in documents.items()}, sequences=sequences,
        tally=tally.to_json(),
    ).write()  # fmt: skip


def _write_rows(path: Path, documents: Iterable[Encoded]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Write conversations as both hosts' chat datasets read them; returns their token ids and loss masks."""
    out = []
    with open(path, "w", encoding="utf-8") as stream:
        for document in documents:
            assert document.row is not None and document.row.chat is not None and document.counts is not None
            row: dict[str, Any] = {"messages": document.row.chat.messages}
            if document.row.chat.tools:
                row["tools"] = document.row.chat.tools
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.append((document.ids, document.counts))
    return out
