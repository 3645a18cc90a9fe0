# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The gate and the middleware around an application of FastAPI, as vLLM puts them around its own, by sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nemo_elastic.serving.arguments import MOST_OF_BODY, Settings
from nemo_elastic.serving.gate import Gate
from nemo_elastic.serving.middleware import MemberMiddleware
from tests.runtime.talking import talking_family

fastapi = pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

KEY = "a key"
NAMES = ("12b", "9b", "6b")
MOST = 2**16
#: paths that vLLM has, and ways to write some that go around a look at their beginning; `tests/vllm` asks all
PATHS = [
    "/invocations", "/nowhere", "//v1/completions", "/v1/%2e%2e/invocations", "/health/", "/health/../invocations",
    "/HEALTH", "/health%00", "/health;/invocations",
]  # fmt: skip


def application(folder: Path, key: str | None, root: str = "", **settings: object):
    """As much of vLLM's server as has to do with who comes in; it notes what got as far."""
    from starlette.middleware.cors import CORSMiddleware

    app = fastapi.FastAPI(root_path=root)
    args = Namespace(
        model=str(folder), served_model_name=[], tokenizer=None, api_key=[key] if key else None,
        additional_config=Settings(end_ids=(7,), **settings).within({}),
    )  # fmt: skip
    app.state.args, app.state.got = args, []

    @app.get("/health")
    async def health():
        return fastapi.Response()

    @app.websocket("/v1/realtime")
    async def realtime(websocket: fastapi.WebSocket):
        app.state.got.append("/v1/realtime")
        await websocket.accept()
        await websocket.close()

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
    async def everything(path: str, request: fastapi.Request):
        body = await request.body()
        app.state.got.append((request.url.path, body))
        return {"models": NAMES, "bytes": len(body)}

    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(MemberMiddleware)
    app.add_middleware(Gate)
    return app


@contextmanager
def serving(app) -> Iterator[int]:
    """Its port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return talking_family(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def closed(folder):
    app = application(folder, KEY, max_body=MOST)
    with serving(app) as port:
        yield app, port


def ask(port, path, method="POST", body=b"", key=None, headers=()):
    """Status, headers and body of an answer."""
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    own = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {}), **dict(headers)}
    asked.request(method, path, body, own)
    answer = asked.getresponse()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


@pytest.mark.parametrize("path", PATHS)
def test_every_path_but_the_health_check_asks_for_the_key(closed, path):
    app, port = closed
    app.state.got.clear()
    for method in ("GET", "POST", "OPTIONS", "ODD"):
        for key, body in ((None, b'{"model": "x"}'), ("another", b'{"model": "6b"}')):
            status, _, said = ask(port, path, method, body, key)
            assert status == 401 and not any(name.encode() in said for name in NAMES), (method, key)
    assert app.state.got == []


def test_who_has_the_key_comes_in(closed):
    app, port = closed
    assert ask(port, "/nowhere", "GET", key=KEY)[0] == 200
    status, _, said = ask(port, "/v1/completions", "POST", b'{"model": "7b"}', KEY)
    assert status == 404 and b"one of 12b, 9b, 6b" in said
    app.state.got.clear()
    own = [("authorization", f"bEARER {KEY}")]
    assert ask(port, "/v1/completions", body=b'{"model": "6b"}', headers=own)[0] == 200
    for wrong in (KEY, f"Basic {KEY}", f"Bearer  {KEY}", "Bearer", ""):
        assert ask(port, "/v1/completions", "POST", b"{}", headers=[("authorization", wrong)])[0] == 401
    assert len(app.state.got) == 1


def test_whether_it_is_up_is_no_secret_and_no_way_in(closed):
    app, port = closed
    app.state.got.clear()
    assert ask(port, "/health", "GET")[::2] == (200, b"")
    assert ask(port, "/health", "GET", b"x" * 10 * MOST)[0] == 200, "its body is not read"
    assert ask(port, "/health", "POST", b"{}")[0] == 401
    assert app.state.got == []


def test_a_browser_may_ask_first(closed):
    app, port = closed
    app.state.got.clear()
    asks = [("origin", "http://a"), ("access-control-request-method", "POST")]
    status, headers, _ = ask(port, "/v1/completions", "OPTIONS", headers=asks)
    assert status == 200 and headers["access-control-allow-origin"] == "*"
    for part in ([], asks[:1], asks[1:]):
        assert ask(port, "/v1/completions", "OPTIONS", headers=part)[0] == 401
    assert ask(port, "/v1/completions", "POST", b"{}", headers=asks)[0] == 401
    assert app.state.got == []


def test_the_server_does_not_wait_for_a_body_without_a_key(closed):
    """It answers when it has seen the headers: what is announced never comes."""
    app, port = closed
    app.state.got.clear()
    for length in (b"content-length: 400000000", b"transfer-encoding: chunked"):
        with socket.create_connection(("127.0.0.1", port), timeout=600) as client:
            client.sendall(b"POST /invocations HTTP/1.1\r\nhost: a\r\n" + length + b"\r\n\r\n")
            said = b""
            while piece := client.recv(4096):  # it closes, too
                said += piece
        assert said.startswith(b"HTTP/1.1 401 ") and b"connection: close" in said.lower()
    assert app.state.got == []


def chunked(size: int, piece: bytes = b"x" * 1000) -> Iterator[bytes]:
    for _ in range(size // len(piece)):
        yield piece


def test_a_body_has_a_limit(closed):
    app, port = closed
    app.state.got.clear()
    for body in (b"x" * (MOST + 1), chunked(MOST + 2000)):
        assert ask(port, "/invocations", body=body, key=KEY)[0] == 413
    assert app.state.got == []
    for body in (b"x" * MOST, chunked(MOST - 1000)):
        assert ask(port, "/invocations", body=body, key=KEY)[0] == 200
    assert [len(raw) for _, raw in app.state.got] == [MOST, 64_000]


def test_a_limit_is_there_without_a_key_and_without_being_asked_for(folder):
    app = application(folder, None)
    with serving(app) as port:
        assert ask(port, "/v1/completions", body=b'{"model": "6b"}')[0] == 200
        with socket.create_connection(("127.0.0.1", port), timeout=600) as client:
            client.sendall(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (MOST_OF_BODY + 1))
            assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_the_key_of_the_environment(folder, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "of the environment")
    with serving(application(folder, None)) as port:
        assert ask(port, "/metrics", "GET")[0] == 401
        assert ask(port, "/metrics", "GET", key="of the environment")[0] == 200
    with serving(application(folder, KEY)) as port:
        assert ask(port, "/metrics", "GET", key="of the environment")[0] == 401, "as in vLLM, the argument is the key"
        assert ask(port, "/metrics", "GET", key=KEY)[0] == 200


def test_behind_a_proxy_under_a_path(folder):
    app = application(folder, KEY, root="/api")
    with serving(app) as port:
        for path in ("/health", "/api/health"):
            assert ask(port, path, "GET")[0] == 200
        for path in ("/apihealth", "/api/api/health"):
            assert ask(port, path, "GET")[0] == 401
        assert ask(port, "/api/v1/completions", body=b'{"model": "6b"}', key=KEY)[0] == 200
        assert json.loads(app.state.got[-1][1])["vllm_xargs"] == {"member": "6b"}


def test_a_websocket_is_not_opened_without_the_key(closed):
    import asyncio

    app, _ = closed
    app.state.got.clear()

    def opened(*headers):
        messages, sent = [{"type": "websocket.connect"}], []

        async def receive():
            return messages.pop(0) if messages else {"type": "websocket.disconnect", "code": 1000}

        async def send(message):
            sent.append(message["type"])

        scope = {
            "type": "websocket", "path": "/v1/realtime", "raw_path": b"/v1/realtime", "headers": list(headers),
            "query_string": b"", "subprotocols": [], "scheme": "ws", "server": ("a", 1), "client": ("a", 1),
        }  # fmt: skip
        asyncio.run(app(scope, receive, send))
        return sent

    assert opened() == opened((b"authorization", b"Bearer x")) == ["websocket.close"] and app.state.got == []
    assert opened((b"authorization", f"Bearer {KEY}".encode()))[0] == "websocket.accept"


def test_who_goes_away_in_the_middle_asks_nothing(closed):
    app, port = closed
    app.state.got.clear()
    with socket.create_connection(("127.0.0.1", port), timeout=600) as client:
        own = f"host: a\r\nauthorization: Bearer {KEY}\r\ncontent-length: 99"
        client.sendall(f"POST /v1/completions HTTP/1.1\r\n{own}\r\n\r\n".encode() + b'{"model": "6b"}')
    assert ask(port, "/health", "GET")[0] == 200
    time.sleep(0.2)
    assert app.state.got == []
