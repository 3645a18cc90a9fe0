# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Build a data folder with a tokenizer that is there already, of any vocabulary: from texts, or from conversations."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.extras import require
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.tokenizer import TOKENIZER_FILES, FamilyTokenizer, copy_tokenizer
from nemo_elastic.io.outputs import atomic_dir, check_output
from nemo_elastic.io.read import read_bytes
from nemo_elastic.io.values import integer
from nemo_elastic.io.write import remove

from .chat_folder import CHAT, HALVES, MANIFEST, METADATA, ChatFolder
from .corpus import FEW_DOCUMENTS, HELD_OUT_PER_MILLE
from .encoded import CUT, DROP, Tally, end_of
from .folder import DATA, PROBLEMS, TOKENIZER, CorpusInfo, DataFolder, SplitInfo
from .folder import MANIFEST as DATA_MANIFEST
from .indexed import digest_of, token_dtype, write_indexed
from .packing import NAMES, NPY, PARQUET, pack, packed_rows, write_packed
from .parts import PART, Job, Part, tokenise
from .sources import cut_in_pieces, find_files, holds_chat, size_of

__all__ = ["place_of_tokenizer", "prepare"]

#: bytes of text that are held out at most, whatever there is: validation reads millions of tokens, not billions
_HELD_OUT_BYTES = 2**26


def prepare(
    out: str | Path,
    sources: Sequence[str | Path],
    tokenizer: str | Path,
    *,
    length: int = 4096,
    too_long: str = DROP,
    packed: str = NPY,
    seed: int = 0,
    workers: int | None = None,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> DataFolder | ChatFolder:
    """Tokenise the user's texts or conversations; a run that was killed goes on from its finished parts.

    The same sources and arguments give the same bytes, with any number of processes.

    Args:
        out: The folder to write; it appears when it is complete. Until then parts are kept in `OUT.unfinished`.
        sources: Files or folders, see `sources.find_files`: of texts alone, or of conversations alone.
        tokenizer: A folder with a tokenizer, or a model with one.
        length: Tokens of a packed sequence, and the most of a conversation.
        too_long: `drop` or `cut` a longer conversation.
        packed: `npy` for NeMo, `parquet` for Megatron-Bridge.
        seed: Of the order of held-out texts, and of the packing.
        workers: Processes; as many as this one may use processors by default.
        force: Replace an existing folder.
        progress: Called with what is being done, and the share that is done.

    Returns:
        A data folder of texts, a chat folder of conversations.

    Raises:
        ElasticError: For a value out of range, for sources that cannot be read, or if `out` exists.
    """
    _check(length, too_long, packed)
    place, out = place_of_tokenizer(Path(tokenizer)), Path(out)
    opened, files = FamilyTokenizer.read(place), find_files(sources)
    end_of(opened, place)
    chat = holds_chat(files)
    check_output(out, force, *sources, tokenizer, kind=CHAT if chat else DATA)
    size = sum(size_of(path) for path, _ in files)
    few = len(files) < FEW_DOCUMENTS and not any(path.suffix.lower() == ".jsonl" for path, _ in files)
    share = min(HELD_OUT_PER_MILLE * 1000, 10**6 * _HELD_OUT_BYTES // max(size, 1))
    job = Job(str(place), _digest(place), opened.vocab_size, chat, length, too_long, share, few)
    unfinished = out.with_name(f"{out.name}.unfinished")
    parts = tokenise(
        list(cut_in_pieces(files, PART)), job, unfinished, workers or len(os.sched_getaffinity(0)), progress
    )
    progress("writing", 0.0)
    try:
        folder = _Writer(out, force, [*sources, tokenizer], job, seed, parts)
    except ElasticError:  # there is too little, and nothing to keep
        remove(unfinished)
        raise
    made = folder.chat(opened, packed) if chat else folder.text(size)
    remove(unfinished)
    progress("writing", 1.0)
    return made


def _check(length: int, too_long: str, packed: str) -> None:
    integer("length", length, 2, "an integer from 2")
    if too_long not in (DROP, CUT):
        raise bad("too_long", too_long, "use drop or cut")
    if packed not in NAMES:
        raise bad("packed", packed, "use npy or parquet")
    if packed == PARQUET:
        require("pyarrow")


def place_of_tokenizer(folder: Path) -> Path:
    """The folder with `tokenizer.json`: a tokenizer's own, a data folder's, a model's, or beside a checkpoint.

    Raises:
        ElasticError: there is none.
    """
    for place in (folder, folder / TOKENIZER):
        if (place / "tokenizer.json").is_file():
            return place
    place = read_shapes(folder).companions
    if not (place / "tokenizer.json").is_file():
        raise ElasticError(f"--tokenizer: {folder} has no tokenizer.json")
    return place


def _digest(place: Path) -> str:
    total = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (place / name).is_file():
            total.update(name.encode() + hashlib.sha256(read_bytes(place / name)).digest())
    return total.hexdigest()


class _Writer:
    """Puts parts together in a folder."""

    def __init__(
        self, out: Path, force: bool, inputs: list[str | Path], job: Job, seed: int, parts: list[Part]
    ) -> None:
        self._out, self._force, self._inputs = out, force, inputs
        self._job, self._seed, self._parts = job, seed, parts
        self._tally = Tally()
        for part in parts:
            self._tally.merge(part.tally)
        counts = {half: sum(len(part.lengths[half]) for part in parts) for half in HALVES}
        if sum(counts.values()) < 2:
            what = "conversations" if job.chat else "documents"
            allowed = "; ".join(("give at least two", *self._tally.lines(None, job.length, job.too_long)))
            raise bad("sources", f"{sum(counts.values())} {what} with something to learn from", allowed)
        # where chance held out none, or all, one goes to the other half
        self._moved = {"val": 1 - min(counts["val"], 1), "train": 1 - min(counts["train"], 1)}
        self.counts = {
            "train": counts["train"] - self._moved["val"] + self._moved["train"],
            "val": counts["val"] + self._moved["val"] - self._moved["train"],
        }

    def _documents(self, half: str) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
        """The documents of a half; the last of a half goes to the other where that has none."""
        other = "val" if half == "train" else "train"
        whole = (document for part in self._parts for document in part.documents(half))
        yield from (d for at, d in enumerate(whole) if at < self.counts[half])
        if self._moved[half]:
            *_, last = (document for part in self._parts for document in part.documents(other))
            yield last

    def text(self, size: int) -> DataFolder:
        """Megatron's token files: training documents as they came, those held out in a random order."""
        with atomic_dir(self._out, self._force, self._inputs, DATA) as folder:
            copy_tokenizer(Path(self._job.tokenizer), folder / TOKENIZER)
            held_out = [ids for ids, _, _ in self._documents("val")]
            order = np.random.default_rng(self._seed).permutation(len(held_out))
            write_indexed(folder / "train", (ids for ids, _, _ in self._documents("train")), self._job.vocab)
            write_indexed(folder / "val", (held_out[i] for i in order), self._job.vocab)
            (folder / PROBLEMS).write_text("", encoding="utf-8")
            splits = {name: _split_info(folder / name, self._job.vocab, self.counts[name]) for name in HALVES}
            digest = hashlib.sha256("".join(info.sha256 for info in splits.values()).encode()).hexdigest()
            manifest = DataFolder(
                path=folder, vocab_size=self._job.vocab, seed=self._seed, reasoning=0.0, held_out_problems=0,
                python=platform.python_version(), corpus=CorpusInfo("files", self._tally.rows, size, digest),
                splits=splits, made_with={"tokenizers": version("tokenizers")},
            )  # fmt: skip
            (folder / DATA_MANIFEST).write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
            DataFolder.open(folder)  # what does not open is not delivered
        return DataFolder.open(self._out)

    def chat(self, tokenizer: FamilyTokenizer, packed: str) -> ChatFolder:
        """The hosts' rows, and packed sequences."""
        sequences = {}
        with atomic_dir(self._out, self._force, self._inputs, CHAT) as folder:
            copy_tokenizer(Path(self._job.tokenizer), folder / TOKENIZER)
            metadata = []
            for half, name in HALVES.items():
                documents = list(self._documents(half))
                with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as stream:
                    stream.writelines(f"{row}\n" for _, _, row in documents)
                packs = pack([len(ids) for ids, _, _ in documents], self._job.length, self._seed)
                rows = packed_rows(packs, [(ids, counts) for ids, counts, _ in documents])
                write_packed(folder / name, rows, packed)
                sequences[half] = len(rows)
                metadata.append(
                    {
                        "dataset_max_seqlen": max(len(ids) for ids, _, _ in documents),
                        "max_samples_per_bin": max(map(len, packs)),
                        "packing_factor": round(len(documents) / len(packs), 2),
                        "packing_efficiency": round(
                            100 * sum(len(r["input_ids"]) for r in rows) / (len(rows) * self._job.length), 2
                        ),
                        "pack_size": self._job.length,
                        "min_packed_seqlen": min(len(r["input_ids"]) for r in rows),
                    }
                )
            (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
            template = tokenizer.chat_template
            manifest = ChatFolder(
                path=folder, vocab_size=self._job.vocab, length=self._job.length, too_long=self._job.too_long,
                packed=packed, marked=template is None or template.marks_answers, seed=self._seed,
                conversations=self.counts, sequences=sequences, tally=self._tally.to_json(),
            )  # fmt: skip
            (folder / MANIFEST).write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
        return ChatFolder.open(self._out)


def _split_info(prefix: Path, vocab: int, documents: int) -> SplitInfo:
    tokens = size_of(Path(f"{prefix}.bin")) // token_dtype(vocab).itemsize
    return SplitInfo(tokens, documents, 0, 0, digest_of(prefix))
