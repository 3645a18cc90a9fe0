# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that ask for what they said before, near or far: `= Ab Cd` states that Ab is Cd, `? Ab Cd` asks and answers.

A hybrid of 0.15M parameters learns to look such facts up in about a minute, so that a tiny family can show what a
context's length does to its members.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from nemo_elastic.data.bpe import EOS, MIN_VOCAB, PAD, encode, save_tokenizer
from nemo_elastic.data.build import Split, end, write_splits
from nemo_elastic.data.folder import MANIFEST, PROBLEMS, SPLITS, TOKENIZER, CorpusInfo, DataFolder
from nemo_elastic.io.atomic import atomic_dir

STATES, ASKS = "=", "?"
#: a data folder has at least so many entries, two of them special; only the first `NAMES` names are written
WORDS = (STATES, ASKS, *(a + b for a in ascii_uppercase for b in ascii_lowercase))[: MIN_VOCAB - 2]
NAMES = 60
#: share of the statements that ask
ASKED = 0.6


@dataclass(frozen=True)
class RecallDocument:
    """A text and what it asks.

    Attributes:
        words: of the text.
        questions: (place of the answer among the words, tokens back to where it was said).
    """

    words: list[str]
    questions: list[tuple[int, int]]


def document(rng: random.Random, length: int) -> RecallDocument:
    """A text of `length - 1` words: with its end it has `length` tokens. Its last statement may be cut.

    A question's distance is sampled evenly over the logarithm of those that there are: most facts stand far back, and
    near ones are asked for as often.
    """
    names = list(WORDS[2 : 2 + NAMES])
    unsaid, said = rng.sample(names, len(names)), {}
    words: list[str] = []
    questions: list[tuple[int, int]] = []
    while len(words) < length - 1:
        if said and (not unsaid or rng.random() < ASKED):
            answer = len(words) + 2
            far = {name: answer - at for name, (_, at) in said.items()}
            wanted = math.exp(rng.uniform(0, math.log(max(far.values()))))
            name = min(far, key=lambda n, far=far, wanted=wanted: abs(far[n] - wanted))
            words += [ASKS, name, said[name][0]]
            questions.append((answer, far[name]))
        else:
            name, value = unsaid.pop(), rng.choice(names)
            said[name] = value, len(words) + 2
            words += [STATES, name, value]
    return RecallDocument(words[: length - 1], [q for q in questions if q[0] < length - 1])


def documents(split: str, length: int) -> Iterator[RecallDocument]:
    """Endless texts of a split, the same ones every time."""
    rng = random.Random(f"{split} {length}")
    while True:
        yield document(rng, length)


def build_recall(out: str | Path, counts: Mapping[str, tuple[int, int]]) -> DataFolder:
    """A data folder of such texts, one token per word, so that no merge hides how far back something stands.

    Args:
        out: folder to write; it must not exist.
        counts: split -> texts of it, and tokens of each.

    Raises:
        ElasticError: `out` exists.
    """
    texts = {
        split: [" ".join(d.words) for d in islice(documents(split, length), count)]
        for split, (count, length) in counts.items()
    }
    return build_words(out, WORDS, texts)


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A tokenizer of words between spaces, behind the special tokens of every data folder."""
    vocabulary = {word: i for i, word in enumerate((PAD, EOS, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def build_words(out: str | Path, words: Sequence[str], texts: Mapping[str, Sequence[str]]) -> DataFolder:
    """Write a data folder.

    Args:
        out: folder to write; it appears when it is whole, and must not exist.
        words: the vocabulary without its special tokens.
        texts: split -> its documents, for every split of a data folder.

    Raises:
        ElasticError: `out` exists.
    """
    tokenizer = word_tokenizer(words)
    with atomic_dir(Path(out), force=False) as folder:
        save_tokenizer(tokenizer, folder / TOKENIZER)
        splits = {name: Split([end(ids) for ids in encode(tokenizer, texts[name])], 0, 0) for name in SPLITS}
        infos = write_splits(folder, splits, tokenizer.get_vocab_size())
        (folder / PROBLEMS).write_text("")
        everything = hashlib.sha256("".join(info.sha256 for info in infos.values()).encode()).hexdigest()
        manifest = DataFolder(
            path=folder, vocab_size=tokenizer.get_vocab_size(), seed=0, reasoning=0.0, held_out_problems=0,
            python=platform.python_version(),
            corpus=CorpusInfo(
                "files", sum(map(len, texts.values())), sum(i.tokens for i in infos.values()), everything
            ),
            splits=infos, made_with={"tokenizers": version("tokenizers")},
        )  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps(manifest.to_json(), indent=2) + "\n")
    return DataFolder.open(out)
