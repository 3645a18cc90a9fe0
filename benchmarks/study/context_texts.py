# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that ask for what was said far before: recall, chains of it, and sums; generated, one token per word.

Each document has exactly `LENGTH` tokens, so that sequences of that length are whole documents, and shorter ones are
pieces of them, whose questions often ask for what another piece has said. A document states facts about names, `= Ab
Cd` or `# Ab 7`, and asks about them:

    ? Ab Cd              what Ab is
    ?? Ab Cd Ef          what Ab is, and what that is: a chain of two; of three with ???
    + Ab Cd Ef 7 12 19   running sums of three numbers

The distance of a question is that from its answer back to the furthest of the facts it needs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from string import ascii_lowercase, ascii_uppercase

#: tokens of a document, the end of it included
LENGTH = 1024
#: tokens of the short pieces that a family is trained on
SHORT = 128
#: largest distance of each level; a question's level is sampled among those of which there is one to ask
LEVELS = (64, 128, 256, 512, LENGTH)
KINDS = ("recall", "chain of 2", "chain of 3", "sum of 3")
#: share of statements that ask
ASKED = 0.6
LINK, NUMBER = "=", "#"
MARKS = dict(zip(KINDS, ("?", "??", "???", "+"), strict=True))
#: words of a number, and of a running sum of three of them
NUMBERS = tuple(str(n) for n in range(28))
#: as many as a vocabulary of 258 words, two of them special, has room for
NAMES = tuple(a + b for a in ascii_uppercase for b in ascii_lowercase)[: 256 - 6 - len(NUMBERS)]
WORDS = (LINK, NUMBER, *MARKS.values(), *NUMBERS, *NAMES)
#: most words of a question that stand before its answer
_MARK_AND_NAMES = 4


@dataclass(frozen=True)
class Question:
    """One question of a document.

    Attributes:
        kind: one of `KINDS`.
        start, end: words of the document that answer it.
        distance: tokens from the start of the answer back to the furthest fact that it needs.
    """

    kind: str
    start: int
    end: int
    distance: int

    @property
    def level(self) -> int:
        """The first of `LEVELS` that holds its distance."""
        return next(level for level in LEVELS if self.distance <= level)


@dataclass
class Document:
    """A document as it grows.

    Attributes:
        words: what is written.
        questions: what it asks.
    """

    rng: random.Random
    words: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    #: name -> what it is, and where that was said
    links: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    said: dict[str, int] = field(default_factory=dict)

    def state(self) -> None:
        """A new fact: a link, half of them to a name that is known already, or a number."""
        name = self.fresh()
        self.said[name] = len(self.words)
        if self.rng.random() < 0.3:
            self.numbers[name] = self.rng.randrange(10)
            self.words += [NUMBER, name, str(self.numbers[name])]
            return
        known = list(self.links)
        self.links[name] = self.rng.choice(known) if known and self.rng.random() < 0.5 else self.fresh(name)
        self.words += [LINK, name, self.links[name]]

    def fresh(self, but: str = "") -> str:
        """A name that nothing was said about."""
        while True:
            name = self.rng.choice(NAMES)
            if name not in self.said and name != but:
                return name

    def ask(self) -> bool:
        """A question of a kind and then of a level that are sampled; whether there is one of that kind."""
        kind = self.rng.choice(KINDS)
        by_level: dict[int, list[tuple[str, ...]]] = {}
        for needed in self.needs(kind):
            level = next((level for level in LEVELS if self.far(needed) + _MARK_AND_NAMES <= level), None)
            if level is not None:
                by_level.setdefault(level, []).append(needed)
        if not by_level:
            return False
        needed = self.rng.choice(by_level[self.rng.choice(sorted(by_level))])
        asked, answer = self.say(kind, needed)
        start = len(self.words) + len(asked)
        self.questions.append(Question(kind, start, start + len(answer), start - min(self.said[n] for n in needed)))
        self.words += asked + answer
        return True

    def far(self, needed: tuple[str, ...]) -> int:
        return len(self.words) - min(self.said[name] for name in needed)

    def needs(self, kind: str) -> list[tuple[str, ...]]:
        """What questions of a kind could need: the names whose facts they are about, in order."""
        if kind == "sum of 3":
            names = list(self.numbers)
            return [tuple(self.rng.sample(names, 3)) for _ in range(16)] if len(names) >= 3 else []
        chains = [(name,) for name in self.links]
        for _ in range(0 if kind == "recall" else int(kind[-1]) - 1):
            chains = [(*chain, self.links[chain[-1]]) for chain in chains if self.links[chain[-1]] in self.links]
        return chains

    def say(self, kind: str, needed: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """The words of a question, and of its answer."""
        if kind == "sum of 3":
            values = [self.numbers[name] for name in needed]
            return [MARKS[kind], *needed], [str(sum(values[: i + 1])) for i in range(len(values))]
        return [MARKS[kind], needed[0]], [self.links[name] for name in needed]


def document(rng: random.Random, length: int = LENGTH) -> Document:
    """One document of `length - 1` words; the end of it is a token, too. The last statement may be cut."""
    made = Document(rng)
    while len(made.words) < length - 1:
        if not (rng.random() < ASKED and made.ask()):
            made.state()
    del made.words[length - 1 :]
    made.questions = [q for q in made.questions if q.end < length]
    return made


def documents(split: str, seed: int = 0, length: int = LENGTH) -> Iterator[Document]:
    """Endless documents of a split, the same ones every time."""
    rng = random.Random(f"{split} {seed} {length}")
    while True:
        yield document(rng, length)
