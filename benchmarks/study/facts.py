# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that ask for what they said before, near or far: `= Ab Cd` states that Ab is Cd, `? Ab Cd` asks and answers.

A hybrid of 0.15M parameters learns to look such facts up in about a minute.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

from nemo_elastic.data.build import MIN_VOCAB
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.demo.words import build_words

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
