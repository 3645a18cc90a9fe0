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
#: keys of objects with a `model`: the answer, and its wrappers in streams of responses and of messages
_WITHIN = ("response", "message")


class Answer:
    """What a request gets from `name`; for `auto`, `members` says who answers each prompt, None until it is known."""

    def __init__(self, choice: Choice, body: Mapping[str, Any]) -> None:
        self.name, self.is_auto = choice.name, choice.cost is not None
        several = body.get("n")
        self._each = several if isinstance(several, int) and several > 1 else 1  # answers for each prompt
        self.members: list[str | None] = []

    def model(self, index: int | None = None) -> str:
        """Who gave the answer of that number, or all of them; `auto` where members differ."""
        if not self.is_auto:
            return self.name
        place = None if index is None else index // self._each
        members = {*self.members} if place is None or place >= len(self.members) else {self.members[place]}
        return next(iter(members)) or AUTO if len(members) == 1 else AUTO

    def naming(self, send: Send) -> Send:
        """Put the answering member into the responses for `auto`, JSON or a stream."""
        if not self.is_auto:
            return send
        start: Message | None = None
        whole, streams = b"", False

        async def named(message: Message) -> None:
            nonlocal start, whole, streams
            if message["type"] == "http.response.start":
                kind = next((v for k, v in message["headers"] if k.lower() == b"content-type"), b"")
                streams = kind.startswith(b"text/event-stream")
                if kind.startswith(b"application/json"):
                    start = message  # its length is not known yet
                    return
            elif start is not None:
                whole += message.get("body", b"")
                if message.get("more_body", False):
                    return
                body = self._named(whole)
                headers = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
                await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
                message = {**message, "body": body}
            elif streams:
                lines = message.get("body", b"").split(b"\n")  # vLLM sends whole lines
                mark = b"data: "
                lines = [mark + self._named(line[6:]) if line.startswith(mark + b"{") else line for line in lines]
                message = {**message, "body": b"\n".join(lines)}
            await send(message)

        return named

    def _named(self, raw: bytes) -> bytes:
        """JSON of an answer, or of a piece of a stream, with the member's name; unchanged if it has no `model`."""
        try:
            event = json.loads(raw)
        except ValueError:
            return raw
        if not isinstance(event, dict):
            return raw
        choices = event.get("choices")
        index = choices[0].get("index") if isinstance(choices, list) and len(choices) == 1 else None
        places = [p for p in (event, *map(event.get, _WITHIN)) if isinstance(p, dict) and p.get("model") == AUTO]
        for place in places:
            place["model"] = self.model(index)
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() if places else raw


_ANSWER: ContextVar[Answer | None] = ContextVar("nemo_elastic_answer", default=None)


@contextmanager
def answering(answer: Answer) -> Iterator[None]:
    """Make this the current answer for vLLM's code in the block and in tasks that start there."""
    before = _ANSWER.set(answer)
    try:
        yield
    finally:
        _ANSWER.reset(before)


def write_member(output: Any, member: str) -> None:
    """In the engine: add the answering member to an output of vLLM."""
    output.kv_transfer_params = {_MEMBER: member}


def model_name_with(theirs: Callable[..., str]) -> Callable[..., str]:
    """Wrap vLLM's function for the model name in an answer: use the name of the request."""

    @wraps(theirs)
    def model_name(self: Any, *more: Any, **named: Any) -> str:
        answer = _ANSWER.get()
        return theirs(self, *more, **named) if answer is None else answer.name

    return model_name


def generate_with(theirs: Callable[..., AsyncIterator[Any]], names: Names) -> Callable[..., AsyncIterator[Any]]:
    """Wrap vLLM's generation in its server: refuse unknown members on every path, and record the answering member."""

    @wraps(theirs)
    def generate(self: Any, prompt: Any, sampling_params: Any, *more: Any, **named: Any) -> AsyncIterator[Any]:
        extra = getattr(sampling_params, "extra_args", None)
        names.from_extra(extra)
        read_budget(extra)
        outputs, answer = theirs(self, prompt, sampling_params, *more, **named), _ANSWER.get()
        if answer is None or not answer.is_auto:
            return outputs
        answer.members.append(None)
        return _with_reports(outputs, answer.members, len(answer.members) - 1)

    return generate


async def _with_reports(outputs: Any, members: list[str | None], place: int) -> AsyncIterator[Any]:
    """Outputs of one prompt; `members[place]` becomes the member that they report."""
    async with aclosing(outputs):
        async for output in outputs:
            report = output.kv_transfer_params
            if report and _MEMBER in report:
                members[place], output.kv_transfer_params = report[_MEMBER], None
            yield output
