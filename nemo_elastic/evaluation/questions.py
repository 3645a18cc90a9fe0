# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Questions with known answers, sampled several times, and scored by the answer that stands in what was said.

Any chat JSONL is such a set: the last message is the answer, unless the row has a field `answer`; what is before it is
asked. Who answers is a member in memory, or a server that speaks OpenAI's chat completions.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import comb
from pathlib import Path
from typing import Any

from nemo_elastic.data.sources import find_files, read_all
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.bounded import SMALL
from nemo_elastic.runtime import MemberModel
from nemo_elastic.verdicts import FEW, mean_interval

__all__ = [
    "Asking",
    "Question",
    "Score",
    "ask_endpoint",
    "ask_member",
    "check_url",
    "extract_answer",
    "pass_at",
    "read_questions",
]

#: seconds that a server may take for an answer
_PATIENCE = 3600
_LINE = re.compile(r"^\W*(?:the\s+)?(?:final\s+)?answer\s*(?:is\b|:)\s*:?\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r"^\s*####\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """What is asked, and the answer that is right."""

    messages: list[dict[str, Any]]
    answer: str


@dataclass(frozen=True)
class Asking:
    """How questions are asked.

    Attributes:
        samples: answers to each.
        temperature: 0 takes the most likely token, and one sample is all there is.
        max_new_tokens: of an answer, its thinking included.
        seed: of the samples.
        batch: answers at once.
    """

    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 1024
    seed: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        if self.samples > 1 and not self.temperature:
            raise bad("--samples", self.samples, "1 at temperature 0, where all of them are the same")


@dataclass(frozen=True)
class Score:
    """How many samples of each question were right, in their order."""

    right: tuple[int, ...]
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Mean share that is right, its interval over questions, and pass@k for powers of two up to all samples."""
        shares = [count / self.samples for count in self.right]
        ks = [k for k in (2**i for i in range(self.samples.bit_length())) if k < self.samples] + [self.samples]
        out: dict[str, Any] = {
            "questions": len(shares),
            "samples": self.samples,
            "correct": sum(self.right),
            "accuracy": sum(shares) / len(shares),
            "pass_at": {str(k): sum(pass_at(k, c, self.samples) for c in self.right) / len(shares) for k in ks},
        }
        if len(shares) >= FEW:
            interval = mean_interval(shares)
            out["interval"] = [max(0.0, interval.low), min(1.0, interval.high)]
        return out


def pass_at(k: int, right: int, samples: int) -> float:
    """The chance that one of k samples is right, without bias: Chen et al. 2021, arXiv 2107.03374, equation 1."""
    return 1 - comb(samples - right, k) / comb(samples, k)


def read_questions(path: Path, most: int | None = None) -> list[Question]:
    """The questions of a chat JSONL file, or of a folder of them.

    Raises:
        ElasticError: a row is no conversation, or nothing is asked or answered in it; with file and line.
    """
    questions = []
    for row in islice(read_all(find_files([path])), most):
        messages = row.chat.messages if row.chat is not None else []
        answer = None if row.chat is None else row.chat.answer
        if answer is None and messages and messages[-1]["role"] == "assistant":
            answer, messages = messages[-1]["content"], messages[:-1]
        if answer is None or not messages or not extract_answer(answer):
            raise ElasticError(f"{row.where}: no question with an answer, as its last message or its field 'answer'")
        questions.append(Question(messages, extract_answer(answer)))
    if not questions:
        raise ElasticError(f"{path}: has no questions")
    return questions


def extract_answer(text: str) -> str:
    r"""The answer in what was said: behind the thinking, in the last `\boxed{…}`, behind `answer:` or `####`, or all.

    Blanks, commas in numbers, a dollar sign, emphasis and a full stop at the end are no part of it.
    """
    said = text.rpartition("</think>")[2]
    answer = _boxed(said)
    for pattern in (_LINE, _HASHES):
        if answer is None and (lines := pattern.findall(said)):
            answer = lines[-1]
    plain = (said if answer is None else answer).strip().strip("*$`").strip()
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(plain.split()))
    return plain.removesuffix(".").strip("*$` ")


def _boxed(text: str) -> str | None:
    r"""What the last `\boxed{` holds, braces matched."""
    start = text.rfind(r"\boxed{")
    depth, begin = 0, start + len(r"\boxed")
    for at in range(begin, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin + 1 : at]
    return None


def ask_member(
    member: MemberModel,
    questions: Sequence[Question],
    how: Asking,
    progress: Callable[[int, int], None] = lambda done, right: None,
) -> Score:
    """Let a member answer all questions by its chat template; without one it goes on from the question's text.

    Args:
        member: with a tokenizer.
        questions: what is asked.
        how: samples and their sampling.
        progress: called with how many answers there are, and how many of these are right.
    """
    is_chat = member.is_chat
    each = [question for question in questions for _ in range(how.samples)]

    def said() -> Iterator[list[str]]:
        for at in range(0, len(each), how.batch):
            asked = [question.messages for question in each[at : at + how.batch]]
            prompts = [messages if is_chat else f"{messages[-1]['content']} " for messages in asked]
            yield member.generate(prompts, how.max_new_tokens, temperature=how.temperature, seed=how.seed + at)

    return _scored(questions, how, said(), progress)


def _scored(
    questions: Sequence[Question], how: Asking, said: Iterable[Sequence[str]], progress: Callable[[int, int], None]
) -> Score:
    """The score of answers as they come, some at a time: all samples of the first question first."""
    right, done = [0] * len(questions), 0
    for texts in said:
        for at, text in enumerate(texts, done):
            question = at // how.samples
            right[question] += extract_answer(text) == questions[question].answer
        done += len(texts)
        progress(done, sum(right))
    return Score(tuple(right), how.samples)


def check_url(url: str) -> None:
    """Refuse what is no server's URL, by an ElasticError."""
    if not url.startswith(("http://", "https://")):
        raise bad("--endpoint", url, "the URL of a server, such as http://localhost:8000/v1")


def ask_endpoint(
    url: str,
    model: str,
    questions: Sequence[Question],
    how: Asking,
    progress: Callable[[int, int], None] = lambda done, right: None,
) -> Score:
    """Let a server answer all questions, `how.batch` of them at once; OPENAI_API_KEY is its key, where it wants one.

    Args:
        url: of an OpenAI-compatible server, with its `/v1`.
        model: the name of what answers there.
        questions, how, progress: as in `ask_member`.

    Raises:
        ElasticError: the server cannot be reached, refuses, or says no chat completion.
    """
    check_url(url)

    def ask(at: int) -> list[str]:
        messages = questions[at // how.samples].messages
        asked = {"model": model, "messages": messages, "max_tokens": how.max_new_tokens}
        return [_completion(url, asked | {"temperature": how.temperature, "seed": how.seed + at})]

    with ThreadPoolExecutor(how.batch) as pool:
        try:
            return _scored(questions, how, pool.map(ask, range(len(questions) * how.samples)), progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _completion(url: str, asked: dict[str, Any]) -> str:
    """What one chat completion says."""
    place = f"{url.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(place, json.dumps(asked).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            content = json.loads(answer.read(SMALL))
        said = content["choices"][0]["message"]["content"]
        if said is not None and not isinstance(said, str):
            raise TypeError("the message is no text")
    except urllib.error.HTTPError as exc:
        raise ElasticError(f"--endpoint: {place} answers {exc.code}: {_first(exc)}") from None
    except OSError as exc:
        raise ElasticError(f"--endpoint: {place} cannot be reached ({getattr(exc, 'reason', exc)})") from None
    except (ValueError, LookupError, TypeError) as exc:
        raise ElasticError(f"--endpoint: {place} gives no chat completion ({exc})") from None
    return said or ""


def _first(exc: urllib.error.HTTPError) -> str:
    """The beginning of what a server says to a request that it refuses."""
    return exc.read(2000).decode("utf-8", "replace")[:300]
