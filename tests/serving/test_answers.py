# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Who answered, in the answer: what vLLM's functions do once they are wrapped, and what of it reaches a client."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.serving.answers import Answer, answering, generate_with, model_name_with, write_member
from nemo_elastic.serving.names import Choice
from tests.serving.test_names import CALIBRATED

AUTO = Choice("6b", cost=0.4)


class Engine:
    """Outputs of vLLM's form: of each prompt some, in which the engine says who answers."""

    def __init__(self, *members: str) -> None:
        self.members, self.closed = list(members), 0

    async def generate(self, prompt, sampling_params, request_id):
        member = self.members.pop(0)
        try:
            for _ in range(3):
                output = SimpleNamespace(kv_transfer_params=None)
                write_member(output, member)
                yield output
        finally:
            self.closed += 1


generate = generate_with(Engine.generate, CALIBRATED)
model_name = model_name_with(lambda self, lora=None: "12b")


def params(**extra):
    return SimpleNamespace(extra_args=extra or None)


def talk(answer: Answer, engine: Engine, prompts: int, messages: list[dict], first: int = 1) -> list[dict]:
    """One request: its prompts are read, then the server sends this; what reaches the client."""
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    async def serve():
        with answering(answer):
            named = model_name(None)
            runs = [generate(engine, "a", params(member="auto"), f"r-{i}") for i in range(prompts)]
            for run in runs:
                for _ in range(first):
                    assert (await anext(run)).kv_transfer_params is None, "a client has no use for it"
                await run.aclose()
            out = answer.naming(send)
            for message in messages:
                body = message.get("body", b"").replace(b"MODEL", named.encode())
                await out(message | ({"body": body} if body else {}))

    asyncio.run(serve())
    return sent


def start(kind: bytes, length: int = 1) -> dict:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % length), (b"a", b"b")]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def body(event: object, more: bool = False, stream: bool = False) -> dict:
    raw = json.dumps(event, separators=(",", ":")).encode()
    raw = b"data: " + raw + b"\n\n" if stream else raw
    return {"type": "http.response.body", "body": raw, "more_body": more}


def test_who_is_asked_is_who_answers():
    for choice, name in ((Choice("6b"), "6b"), (Choice("6b", "12b"), "6b>12b"), (Choice("code"), "code")):
        answer = Answer(choice, {})
        with answering(answer):
            assert model_name(None) == name == answer.model()
        assert answer.naming(print) is print, "nothing is written anew"
    assert model_name(None) == "12b", "vLLM's own, where nothing was asked of the middleware"


def test_auto_says_the_member_that_answered():
    engine = Engine("9b")
    sent = talk(Answer(AUTO, {}), engine, 1, [start(b"application/json"), body({"model": "MODEL", "choices": []})])
    raw = sent[1]["body"]
    assert json.loads(raw) == {"model": "9b", "choices": []} and engine.closed == 1
    assert dict(sent[0]["headers"]) == {
        b"content-type": b"application/json", b"content-length": b"%d" % len(raw), b"a": b"b",
    }  # fmt: skip


def test_an_answer_in_pieces_and_no_json():
    whole = json.dumps({"model": "auto", "text": "naïve"}).encode()
    pieces = [
        {"type": "http.response.body", "body": part, "more_body": i == 0}
        for i, part in enumerate((whole[:9], whole[9:]))
    ]
    sent = talk(Answer(AUTO, {}), Engine("6b"), 1, [start(b"application/json"), *pieces])
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert json.loads(sent[1]["body"]) == {"model": "6b", "text": "naïve"}
    for kind in (b"application/json", b"text/plain"):
        odd = {"type": "http.response.body", "body": b'"model":"auto"'}
        assert talk(Answer(AUTO, {}), Engine("6b"), 1, [start(kind, 14), odd])[1]["body"] == odd["body"]


def test_every_piece_of_a_stream_says_it():
    said = 'data: "model":"auto" \'\n'
    events = [
        {"model": "auto", "choices": [{"index": 0, "text": said}]},
        {"type": "response.completed", "response": {"model": "auto", "metadata": {"model": "auto"}}},
        {"type": "message_start", "message": {"model": "auto"}},
    ]
    messages = [start(b"text/event-stream; charset=utf-8"), *(body(e, True, True) for e in events)]
    done = {"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False}
    sent = talk(Answer(AUTO, {}), Engine("9b"), 1, [*messages, done])
    assert sent[0] == messages[0] and sent[-1] == done
    report = [json.loads(m["body"].removeprefix(b"data: ")) for m in sent[1:-1]]
    assert report[0] == {"model": "9b", "choices": [{"index": 0, "text": said}]}
    assert report[1]["response"] == {"model": "9b", "metadata": {"model": "auto"}}, "the client's own stays"
    assert report[2]["message"] == {"model": "9b"}
    assert all(m["body"].endswith(b"\n\n") for m in sent[1:])


def test_several_prompts_have_each_its_member():
    answer = Answer(AUTO, {"n": 2})
    events = [{"model": "auto", "choices": [{"index": i}]} for i in range(4)] + [{"model": "auto", "choices": []}]
    sent = talk(answer, Engine("6b", "12b"), 2, [start(b"text/event-stream"), *(body(e, True, True) for e in events)])
    report = [json.loads(m["body"].removeprefix(b"data: "))["model"] for m in sent[1:]]
    assert report == ["6b", "6b", "12b", "12b", "auto"]


def test_before_anybody_has_said_who_answers():
    sent = talk(Answer(AUTO, {}), Engine("9b"), 1, [start(b"application/json"), body({"model": "MODEL"})], first=0)
    assert json.loads(sent[1]["body"]) == {"model": "auto"}


@pytest.mark.parametrize("extra", [{"member": "7b"}, {"thinking_token_budget": "abc"}])
def test_what_names_nobody_never_reaches_the_engine(extra):
    engine = Engine("6b")
    with pytest.raises(ElasticError):
        generate(engine, "a", params(**extra), "r")
    assert engine.members == ["6b"]
