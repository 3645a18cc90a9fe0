# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's data: text, a small tokenizer trained on it, and worked problems mixed in, by the steps of `prepare`.

The text is the standard library of the Python that runs, unless a test names some: it is on every machine, and its
licence lets it be read in place. A file is one document, and so is a problem: Megatron's datasets shuffle documents
and then read them end to end, so a window of 128 tokens has two or three short problems or a piece of a file, and a
batch has both. Every document ends in `<eos>`, so a problem starts right after one, as it does in evaluation.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.io.outputs import atomic_dir

from .encoded import Tally, encode_rows
from .folder import DATA, TOKENIZER, CorpusInfo, DataFolder
from .prepare import Progress, Split, write_manifest, write_splits
from .reasoning import LONG_TOKENS, Problem, long_weights, mixture, short_weights
from .sources import HELD_OUT, Row, document_rank, drawn, find_files, hold_out, read_all, read_stdlib, unique

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["EOS", "EOS_ID", "PAD", "PAD_ID", "build_data", "encode", "read_texts", "save_tokenizer", "train_tokenizer"]

#: Padding differs from the end of a document: Megatron's datasets give no loss to a label that equals the padding.
PAD, EOS = "<pad>", "<eos>"
PAD_ID, EOS_ID = 0, 1
# This much text settles the merges of a small vocabulary; more only takes longer.
_TOKENIZER_CHARS = 4_000_000

#: Share of short problems among the problem tokens of the long split: what was learned first is not to be forgotten.
SHORT_IN_LONG = 0.2
#: Held-out files are cut into pieces of this many tokens and shuffled: the first 20,000 tokens are a fair sample.
VAL_PIECE = 1024

_CHUNK = 512
# Held-out questions are a tenth of all, and an easy level may have only a handful: no endless search for more.
_EXTRA_CHUNKS = 40


def build_data(
    out: str | Path,
    sources: Sequence[str | Path] = (),
    *,
    vocab: int = 1024,
    reasoning: float = 0.25,
    seed: int = 0,
    held_out_problems: int = 128,
    progress: Progress = lambda what, share: None,
) -> DataFolder:
    """Build a data folder from Python's standard library, or from some files, and from reasoning problems.

    The same arguments, text and package versions give the same bytes. Everything is in memory.

    `vocab` is the size of the tokenizer's vocabulary, `reasoning` the share of problem tokens in every split, from 0
    to 0.9, `held_out_problems` how many are kept for answer accuracy; `seed` fixes the problems and all orders.

    Raises:
        ElasticError: `out` exists.
    """
    with atomic_dir(out, False, sources, DATA) as folder:  # first of all: an existing output is refused at once
        progress("reading text", 0.0)
        train, held_out, corpus = read_texts(sources)
        progress("training the tokenizer", 0.0)
        save_tokenizer(train_tokenizer(_tokenizer_texts(train, reasoning, seed), vocab), folder / TOKENIZER)
        tokenizer = FamilyTokenizer.read(folder / TOKENIZER)
        splits, problems = _mixed(train, held_out, tokenizer, reasoning, seed, held_out_problems, progress)
        infos = write_splits(folder, splits, tokenizer.vocab_size, progress)
        write_manifest(folder, infos, corpus, tokenizer.vocab_size, seed, reasoning, problems)
        progress("writing", 1.0)
    return DataFolder.open(out)


# ------------------------------------------------------------------ text


def read_texts(sources: Sequence[str | Path] = ()) -> tuple[list[Row], list[Row], CorpusInfo]:
    """Texts for training, texts for validation, and where they came from: the standard library, or some files."""
    rows = list(unique(read_all(find_files(sources)) if sources else read_stdlib()))
    ranks, held_out = [document_rank(row.name) for row in rows], []
    limit = min(max(HELD_OUT, min(ranks) + 1), max(ranks))  # chance would hold out none of a few, or all
    train = list(hold_out(rows, lambda row: row.name, limit, held_out))
    validation, total, size = {row.name for row in held_out}, hashlib.sha256(), 0
    for row in rows:
        text = row.text.encode()
        name = f"{row.name}\0{int(row.name in validation)}\0".encode("utf-8", "surrogateescape")
        total.update(name + hashlib.sha256(text).digest())
        size += len(text)
    kind = "files" if sources else "python-stdlib"
    return train, held_out, CorpusInfo(kind, len(rows), size, total.hexdigest())


# ------------------------------------------------------------------ the tokenizer


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab` entries, every digit a separate token; a short text yields fewer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder that `AutoTokenizer.from_pretrained` of transformers (4.57 and 5) and NeMo load offline."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    # The begin of a text is the end of the one before it: harnesses that prefix a token then use what was trained.
    special = {"bos_token": EOS, "eos_token": EOS, "pad_token": PAD}
    config = {
        **special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def encode(tokenizer: FamilyTokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Token ids of each text that is not blank, as int32, ended by `<eos>`."""
    rows = (Row("", "", text=text) for text in texts)
    return (document.ids for document in encode_rows(rows, tokenizer, EOS_ID, Tally()))


def _tokenizer_texts(train: Sequence[Row], reasoning: float, seed: int) -> list[str]:
    """A sample of the training text, problems in it at their share, so that their words become tokens."""
    texts = [row.text for row in train]
    stride = -(-sum(map(len, texts)) // round(_TOKENIZER_CHARS * (1 - reasoning)))
    texts = texts[:: max(stride, 1)]
    missing = sum(map(len, texts)) * reasoning / (1 - reasoning)
    for weights in (short_weights(), long_weights()) if reasoning else ():
        source, total = mixture(weights, seed), 0
        while total < missing / 2:
            problems = "\n".join(p.text for p in islice(source, 64) if not p.held_out)
            texts.append(problems)
            total += len(problems)
    return texts


# ------------------------------------------------------------------ the mix


def _mixed(
    train: Sequence[Row], held_out: Sequence[Row], tokenizer: FamilyTokenizer, reasoning: float, seed: int,
    held_out_problems: int, tell: Progress,
) -> tuple[dict[str, Split], list[Problem]]:  # fmt: skip
    """The splits, of text and problems as token ids; and the problems that are kept for answer accuracy."""

    def tokenised(rows: Sequence[Row], what: str) -> list[np.ndarray]:
        documents = []
        for ids in encode(tokenizer, (row.text for row in rows)):
            documents.append(ids)
            tell(what, len(documents) / len(rows))
        return documents

    def tokens_of_problems(text: Sequence[np.ndarray]) -> int:
        return round(sum(map(len, text)) * reasoning / (1 - reasoning))

    files, others = tokenised(train, "tokenising text"), tokenised(held_out, "tokenising held-out text")
    wanted = tokens_of_problems(files)
    pools = {"short": Pool(), "long": Pool()}
    for length in pools if reasoning else ():
        tell_length = partial(tell, f"making {length} problems")
        pools[length] = fill_pool(tokenizer, length, seed, wanted, held_out_problems, tell_length)
    splits = {
        "train": shuffled(files, pools["short"].train, seed),
        "train_long": shuffled(files, long_problems(pools, wanted), seed + 1),
        "val": val_split(others, val_problems(pools, tokens_of_problems(others)), seed),
    }
    return splits, choose_problems(pools, held_out_problems)


@dataclass
class Pool:
    """Tokenised problems of one length class.

    Attributes:
        train: Token ids of each training problem, ended by `<eos>`; questions may repeat.
        held_out: Question → the held-out problem and its token ids.
    """

    train: list[np.ndarray] = field(default_factory=list)
    held_out: dict[tuple[str, str], tuple[Problem, np.ndarray]] = field(default_factory=dict)


def fill_pool(
    tokenizer: FamilyTokenizer, length: str, seed: int, tokens: int, held_out: int,
    tell: Callable[[float], None] = lambda share: None,
) -> Pool:  # fmt: skip
    """Generate `short` or `long` problems up to a number of training tokens and of different held-out questions.

    There is less than one problem more in training, and there may be fewer held-out questions.
    """
    # Two lengths of one seed must not sample the same problems of a level that both use.
    source = mixture(short_weights(), 2 * seed) if length == "short" else mixture(long_weights(), 2 * seed + 1)
    pool, total, extra = Pool(), 0, 0
    while total < tokens or (len(pool.held_out) < held_out and extra < _EXTRA_CHUNKS):
        extra += total >= tokens
        chunk = list(islice(source, _CHUNK))
        for problem, ids in zip(chunk, encode(tokenizer, (p.text for p in chunk)), strict=True):
            problem = problem.with_tokens(len(ids) - 1)
            if problem.length != length or problem.tokens > LONG_TOKENS:
                continue
            if problem.held_out:
                pool.held_out.setdefault((problem.task, problem.question), (problem, ids))
            elif total < tokens:
                pool.train.append(ids)
                total += len(ids)
        tell(min(total, tokens) / max(tokens, 1))
    return pool


def choose_problems(pools: Mapping[str, Pool], count: int) -> list[Problem]:
    """Held-out problems for answer accuracy: two short ones per long one, levels and tasks in turn.

    Any first part of the list is as balanced as the whole; the easiest level comes twice per turn.
    """
    turns = {length: iter(_in_turn([p for p, _ in pool.held_out.values()])) for length, pool in pools.items()}
    chosen: list[Problem] = []
    while turns and len(chosen) < count:
        for length in ("short", "short", "long"):
            problem = next(turns[length], None) if length in turns else None
            if problem is None:
                turns.pop(length, None)
            elif len(chosen) < count:
                chosen.append(problem)
    return chosen


def _in_turn(problems: Sequence[Problem]) -> list[Problem]:
    cells: dict[tuple[int, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        cells[problem.level, problem.task].append(problem)
    easiest = min((level for level, _ in cells), default=0)
    turn = sorted(cells) + [key for key in sorted(cells) if key[0] == easiest]
    ordered = []
    while any(cells.values()):
        ordered += [cells[key].pop(0) for key in turn if cells[key]]
    return ordered


def shuffled(files: Sequence[np.ndarray], problems: Sequence[np.ndarray], seed: int) -> Split:
    """Files and problems in one random order."""
    return Split(list(drawn([*files, *problems], seed)), len(problems), sum(map(len, problems)))


def long_problems(pools: Mapping[str, Pool], tokens: int) -> list[np.ndarray]:
    """Problems of the long split: mostly long ones, and the last short ones again."""
    short = take(pools["short"].train[::-1], round(SHORT_IN_LONG * tokens))
    return take(pools["long"].train, tokens - sum(map(len, short))) + short


def val_problems(pools: Mapping[str, Pool], tokens: int) -> list[np.ndarray]:
    """Problems of the validation split: short and long ones, half of the tokens each."""
    each = tokens // len(pools)
    return [ids for pool in pools.values() for ids in take([ids for _, ids in pool.held_out.values()], each)]


def val_split(files: Sequence[np.ndarray], problems: Sequence[np.ndarray], seed: int) -> Split:
    """Files in pieces, see `VAL_PIECE`, and problems, in one random order where no problem follows half a file."""
    generator = np.random.default_rng(seed)
    starts = [(ids, start) for ids in files for start in range(0, len(ids), VAL_PIECE)]
    order = generator.permutation(len(problems))
    # a run of problems may come only behind the last piece of a file
    runs = iter([order[at :: len(files)] for at in range(len(files))])
    documents: list[np.ndarray] = []
    for at in generator.permutation(len(starts)):
        ids, start = starts[at]
        documents.append(ids[start : start + VAL_PIECE])
        if start + VAL_PIECE >= len(ids):
            documents += [problems[at] for at in next(runs)]
    return Split(documents, len(problems), sum(map(len, problems)))


def take(documents: Sequence[np.ndarray], tokens: int) -> list[np.ndarray]:
    """As many documents from the front as reach `tokens`, or all."""
    taken, total = [], 0
    for ids in documents:
        if total >= tokens:
            break
        taken.append(ids)
        total += len(ids)
    return taken
