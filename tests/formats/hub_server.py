# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A hub on this machine: as much of its protocol as huggingface_hub needs to fetch and to send small models."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "0" * 40


class Hub:
    """What it has and was asked for.

    Attributes:
        models: id -> file -> content.
        made: id -> whether it was made private.
        fetched: paths of files of which the content was asked for.
        refuse: answer everything with this code.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.models: dict[str, dict[str, bytes]] = {}
        self.made: dict[str, bool] = {}
        self.fetched: list[str] = []
        self.refuse: int | None = None


@contextmanager
def serve() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        parts = self.path.split("?")[0].strip("/").split("/")
        if hub.refuse is not None:
            return self._send(b"", hub.refuse)
        if parts[:2] == ["api", "whoami-v2"]:
            return self._json({"name": "me", "type": "user", "auth": {}})
        if parts[:2] == ["api", "models"] and (repo := "/".join(parts[2:4])) in hub.models:
            files = [{"rfilename": name} for name in hub.models[repo]]
            return self._json(
                {"id": repo, "sha": SHA, "private": False, "siblings": files, "tags": [], "downloads": 0}
            )
        if len(parts) > 4 and parts[2] == "resolve":
            content = hub.models.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
            if content is not None:
                if self.command == "GET":
                    hub.fetched.append("/".join(parts[4:]))
                etag = hashlib.sha256(content).hexdigest()
                return self._send(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": SHA})
        return self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:3] == ["api", "repos", "create"]:
            report = json.loads(body)
            repo = f"{report.get('organization') or 'me'}/{report['name']}"
            hub.made[repo] = bool(report.get("private"))
            hub.models.setdefault(repo, {})
            return self._json({"url": f"{hub.address}/{repo}"})
        if parts[:2] == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        repo = "/".join(parts[2:4])
        if parts[4:5] == ["preupload"]:
            files = json.loads(body)["files"]
            known = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self._json({"files": known})
        if parts[4:5] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.models[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._json({"success": True, "commitOid": SHA, "commitUrl": f"{hub.address}/{repo}/commit/{SHA}"})
        return self._send(b"{}", 404)

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def _send(self, content: bytes, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
