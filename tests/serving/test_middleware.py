# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The middleware: what becomes of a body, and in which order it answers; no vLLM behind it."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from types import SimpleNamespace

import pytest

from nemo_elastic.core.manifest import FILE
from nemo_elastic.serving.arguments import Settings
from nemo_elastic.serving.middleware import ANSWERS, CHATS, MemberMiddleware, MemberReader, Refused
from nemo_elastic.serving.names import Choice, Names
from tests.runtime.talking import talking_family
from tests.serving.test_names import CALIBRATED

NAMES = Names(("12b", "9b", "6b"), ("family",), ("/place/family",))
CHAT = ANSWERS[0]


@pytest.mark.parametrize("path", [*ANSWERS, "/v1/completions/render"])
def test_a_member_is_written_where_answers_come_from(path):
    body = {"model": "6b", "prompt": "a", "vllm_xargs": {"other": 1}}
    assert MemberReader(NAMES).read(path, body) == Choice("6b")
    assert body == {"model": "6b", "prompt": "a", "vllm_xargs": {"other": 1, "member": "6b"}}


def test_the_family_is_its_largest_member():
    for model in ({}, {"model": None}, {"model": "family"}, {"model": "12b"}):
        body = dict(model)
        assert MemberReader(NAMES).read(CHAT, body) == Choice("12b")
        assert body == model | {"vllm_xargs": {"member": "12b"}}
    body = {"model": "/place/family"}
    MemberReader(NAMES).read(CHAT, body)
    assert body["model"] == "12b", "vLLM knows the names that are listed"


def test_pairs():
    body = {"model": "6b>12b", "thinking_token_budget": 5}
    assert MemberReader(NAMES).read(CHAT, body) == Choice("6b", "12b")
    assert body == {"model": "6b>12b", "vllm_xargs": {"member": "6b", "then": "12b", "thinking_token_budget": 5}}
    body = {"model": "6b>12b", "thinking_token_budget": 5}
    MemberReader(NAMES, (7,), enforced=True).read(CHAT, body)
    assert body == {"model": "6b>12b", "thinking_token_budget": 5, "vllm_xargs": {"member": "6b", "then": "12b"}}
    body = {"model": "6b>12b"}
    MemberReader(NAMES, (7,)).read(CHAT, body)
    assert body["vllm_xargs"] == {"member": "6b", "then": "12b"}
    for model in ({}, {"model": "family"}, {"model": "6b>9b"}):
        body = model | {"vllm_xargs": {"member": "6b", "then": "9b", "thinking_token_budget": 3}}
        assert MemberReader(NAMES).read(CHAT, body) == Choice("6b", "9b")


def test_the_family_chooses():
    body = {"model": "auto", "vllm_xargs": {"other": 1}}
    assert MemberReader(CALIBRATED).read(CHAT, body) == Choice("6b", cost=0.4)
    assert body == {"model": "auto", "vllm_xargs": {"other": 1, "member": "auto", "cost": 0.4}}
    body = {"model": "auto", "vllm_xargs": {"cost": 0.9}}
    assert MemberReader(CALIBRATED).read(CHAT, body).cost == 0.9
    assert body["vllm_xargs"] == {"member": "auto", "cost": 0.9}
    for model in ("family", "auto"):
        body = {"model": model, "vllm_xargs": {"member": "auto", "cost": 0.9}}
        assert MemberReader(CALIBRATED).read(CHAT, body) == Choice("6b", cost=0.9)
    with pytest.raises(Refused) as caught:
        MemberReader(CALIBRATED).read(CHAT, {"model": "auto", "vllm_xargs": {"cost": 2}})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"model": "7b"}),
        (400, {"model": "6b>12b"}),
        (400, {"model": "6b>12b", "thinking_token_budget": 0}),
        (400, {"model": "6b", "vllm_xargs": {"member": "9b"}}),
        (400, {"model": "6b>12b", "vllm_xargs": {"member": "12b"}}),
        (400, {"vllm_xargs": {"member": "7b"}}),
        (400, {"vllm_xargs": [1]}),
        (400, {"model": "6b", "use_beam_search": True}),
        (400, {"model": "12b", "vllm_xargs": {"thinking_token_budget": "abc"}}),
    ],
)
def test_what_is_refused(status, body):
    with pytest.raises(Refused) as caught:
        MemberReader(NAMES).read(CHAT, body)
    assert caught.value.status == status
    assert caught.value.message.isprintable() and caught.value.field in ("model", "vllm_xargs")


def test_paths_that_answer_as_nobody_in_particular():
    body = {"model": "6b", "prompt": "a"}
    assert MemberReader(NAMES).read("/tokenize", body) is None and body == {"model": "6b", "prompt": "a"}
    assert MemberReader(NAMES).read("/inference/v1/generate", {"model": "family"}) is None
    assert MemberReader(NAMES).read("/load_lora_adapter", {"name": "x"}) is None
    with pytest.raises(Refused) as caught:
        MemberReader(NAMES).read("/inference/v1/generate", {"model": "6b"})
    assert (caught.value.status, caught.value.field) == (400, "model")


class Server:
    """What stands behind the middleware: says what it got."""

    def __init__(self) -> None:
        self.got = []

    async def __call__(self, scope, receive, send):
        headers, raw, more = dict(scope["headers"]), b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        self.got.append((scope["path"], raw, headers.get(b"content-length")))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return talking_family(tmp_path_factory.mktemp("served"))


def ask(middleware, folder, body, path=CHAT, method="POST"):
    """One request, in two pieces; gives status and body of the answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    own = Settings(end_ids=(7,)).within({})
    args = Namespace(model=str(folder), served_model_name=["mine"], tokenizer=None, additional_config=own)
    scope = {
        "type": "http", "method": method, "path": path, "app": SimpleNamespace(state=SimpleNamespace(args=args)),
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))],
    }  # fmt: skip
    half, sent = len(raw) // 2, []
    messages = [
        {"type": "http.request", "body": raw[:half], "more_body": True},
        {"type": "http.request", "body": raw[half:], "more_body": False},
    ]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(middleware(scope, receive, send))
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])


def test_a_request_goes_through(folder):
    server = Server()
    middleware = MemberMiddleware(server)
    assert ask(middleware, folder, {"model": "6b", "prompt": "naïve"}) == (200, b"fine")
    path, raw, length = server.got[-1]
    assert (path, json.loads(raw)["vllm_xargs"], int(length)) == (CHAT, {"member": "6b"}, len(raw))
    for body in (b"no json", b"[1]", b"[" * 100_000):
        assert ask(middleware, folder, body)[0] == 200
        assert server.got[-1][1] == body
    assert ask(middleware, folder, b"", path="/v1/models", method="GET")[0] == 200
    assert ask(middleware, folder, {"model": "mine"})[0] == 200, "a name of the server's own"
    assert json.loads(server.got[-1][1])["vllm_xargs"] == {"member": "12b"}


def test_nobody_answers_where_the_family_cannot_be_opened(tmp_path):
    damaged, server = talking_family(tmp_path), Server()
    (damaged / FILE).write_text("{}")
    with pytest.raises(RuntimeError):  # vLLM makes a 500 of it, and of a ValueError a 400
        ask(MemberMiddleware(server), damaged, {"model": "6b", "prompt": "a"})
    assert server.got == []


def test_messages_to_a_family_without_a_chat_template():
    for path in (CHATS[0], "/v1/chat/completions/batch", "/invocations", "/tokenize"):
        body = {"messages": [], "input": "a", "chat_template": "a"}
        assert MemberReader(NAMES).read(path, dict(body)) is not None or path == "/tokenize"
        MemberReader(NAMES, chats=False, trusts=True).read(path, dict(body))
        with pytest.raises(Refused) as caught:
            MemberReader(NAMES, chats=False).read(path, dict(body))
        assert (caught.value.status, caught.value.field) == (400, "messages")
    for path in ("/v1/completions", "/invocations", "/tokenize"):
        MemberReader(NAMES, chats=False).read(path, {"prompt": "a"})
