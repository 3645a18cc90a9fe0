# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Who answered, as the `model` of an answer and of every piece of a stream.

vLLM writes its first model name there, whoever answered. The middleware knows the member, the extra shape or the pair
that was asked. For `auto` the engine, which is another process, reports the member with each output, in a field for
the transfer of caches, which a family leaves empty; until it has, the answer is from `auto`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from .gate import Message, Send
from .names import AUTO, Choice, Names
from .pairs import read_budget

#: the key of the member in an output of the engine
_MEMBER = "nemo_elastic_member"
#: where `model` stands: in the answer, and in what wraps it in streams of responses and of messages
_WITHIN = ("response", "message")


class Answer:
    """What a request gets.

    Args:
        choice: who was asked.
        each: answers for each prompt.

    Attributes:
        name: of `choice`.
        members: of each prompt for `auto` who answers, in their order; None where nobody has said yet.
    """

    def __init__(self, choice: Choice, each: int = 1) -> None:
        self.name, self.is_auto = choice.name, choice.cost is not None
        self._each = each
        self.members: list[str | None] = []

    @classmethod
    def to(cls, choice: Choice, body: Mapping[str, Any]) -> Answer:
        """Of a request's body."""
        each = body.get("n")
        return cls(choice, each if isinstance(each, int) and each > 1 else 1)

    def model(self, index: int | None = None) -> str:
        """Who answered.

        Args:
            index: of one of the answers; None for all of them, which is `auto` where members differ.
        """
        if not self.is_auto:
            return self.name
        place = None if index is None else index // self._each
        members = {*self.members} if place is None or place >= len(self.members) else {self.members[place]}
        return next(iter(members)) or AUTO if len(members) == 1 else AUTO

    def naming(self, send: Send) -> Send:
        """Let an answer of `auto` say who gave it."""
        return _Naming(self, send) if self.is_auto else send

    def write(self, event: Any) -> bool:
        """Write it into an answer or a piece of a stream; whether there was a place for it."""
        if not isinstance(event, dict):
            return False
        choices = event.get("choices")
        index = choices[0].get("index") if isinstance(choices, list) and len(choices) == 1 else None
        places = [p for p in (event, *map(event.get, _WITHIN)) if isinstance(p, dict) and p.get("model") == AUTO]
        for place in places:
            place["model"] = self.model(index)
        return bool(places)


class _Naming:
    """Sends on what vLLM sends for `auto`, with the member's name in it."""

    def __init__(self, answer: Answer, send: Send) -> None:
        self._answer, self._send = answer, send
        self._start: Message | None = None
        self._whole = b""
        self._streams = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = next((v for k, v in message["headers"] if k.lower() == b"content-type"), b"")
            self._streams = kind.startswith(b"text/event-stream")
            if kind.startswith(b"application/json"):
                self._start = message  # its length is not known yet
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            self._whole += message.get("body", b"")
            if message.get("more_body", False):
                return
            start, self._start = self._start, None
            body = self._named(self._whole)
            headers = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
            await self._send({**start, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
            message = {**message, "body": body}
        elif message["type"] == "http.response.body" and self._streams:
            lines = message.get("body", b"").split(b"\n")  # vLLM sends whole lines
            start = b"data: "
            named = [start + self._named(line[6:]) if line.startswith(start + b"{") else line for line in lines]
            message = {**message, "body": b"\n".join(named)}
        await self._send(message)

    def _named(self, raw: bytes) -> bytes:
        try:
            event = json.loads(raw)
        except ValueError:
            return raw
        written = self._answer.write(event)
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() if written else raw


_ASKED: ContextVar[Answer | None] = ContextVar("nemo_elastic_asked", default=None)


@contextmanager
def asked(answer: Answer) -> Iterator[None]:
    """Let what vLLM does in the block, and in tasks that begin there, be this answer."""
    before = _ASKED.set(answer)
    try:
        yield
    finally:
        _ASKED.reset(before)


def write_member(output: Any, member: str) -> None:
    """In the engine: say in an output of vLLM's who answers."""
    output.kv_transfer_params = {_MEMBER: member}


def model_name_with(theirs: Callable[..., str]) -> Callable[..., str]:
    """vLLM's name of the model in an answer, as the request has it."""

    @wraps(theirs)
    def model_name(self: Any, *more: Any, **named: Any) -> str:
        answer = _ASKED.get()
        return theirs(self, *more, **named) if answer is None else answer.name

    return model_name


def generate_with(theirs: Callable[..., AsyncIterator[Any]], names: Names) -> Callable[..., AsyncIterator[Any]]:
    """vLLM's generation in its server: refuses what names nobody, by whatever path it came, and hears who answers."""

    @wraps(theirs)
    def generate(self: Any, prompt: Any, sampling_params: Any, *more: Any, **named: Any) -> AsyncIterator[Any]:
        extra = getattr(sampling_params, "extra_args", None)
        names.from_extra(extra)
        read_budget(extra)
        outputs, answer = theirs(self, prompt, sampling_params, *more, **named), _ASKED.get()
        return outputs if answer is None or not answer.is_auto else _heard(outputs, answer)

    return generate


def _heard(outputs: Any, answer: Answer) -> AsyncIterator[Any]:
    """Outputs of the next prompt of a request for `auto`, and what they say of who answers."""
    place = len(answer.members)
    answer.members.append(None)

    async def heard() -> AsyncIterator[Any]:
        async with aclosing(outputs):
            async for output in outputs:
                report = output.kv_transfer_params
                if report and _MEMBER in report:
                    answer.members[place], output.kv_transfer_params = report[_MEMBER], None
                yield output

    return heard()
