# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A server in a process of its own, and a client of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.workers import free_port

from .decode_vllm import QUIET

KEY = "a-key-of-a-test"
NEW = 24


@contextlib.contextmanager
def serving(
    place: Path, command: list[str], flags: list[str], log: Path, more: dict[str, str] | None = None
) -> Iterator[str]:
    """A server in a process of its own; gives its address once it answers.

    Args:
        place: where it leaves what it caches.
        command: what starts it, before its port.
        flags: what comes behind its port.
        log: where it writes.
        more: of its environment.
    """
    port = free_port()
    own = {"HF_MODULES_CACHE": str(place / "modules"), "VLLM_CACHE_ROOT": str(place / "cache")}
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VLLM_ENABLE_V1_MULTIPROCESSING")}
    env |= {k: v for k, v in QUIET.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"} | own | (more or {})
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=place,
            start_new_session=True,
        )
        try:
            yield wait_for(f"http://127.0.0.1:{port}", process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(address: str, process: subprocess.Popen, log: Path, seconds: float = 900) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"the server ended:\n{log.read_text(errors='replace')[-4000:]}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return address
        time.sleep(1)
    raise SystemExit(f"the server does not answer:\n{log.read_text(errors='replace')[-4000:]}")


class Talk:
    """Requests of one client."""

    def __init__(self, address: str) -> None:
        from openai import OpenAI

        self.address = address
        # a connection that is kept may be closed by the server in the moment in which the next request is sent
        self.api = OpenAI(
            base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=600, default_headers={"Connection": "close"}
        )

    def complete(self, model: str, prompt: Any, new: int = NEW, **extra: Any) -> list[int]:
        """Greedy tokens."""
        more = {"ignore_eos": True, "return_token_ids": True, **extra}
        done = self.api.completions.create(model=model, prompt=prompt, max_tokens=new, temperature=0, extra_body=more)
        return done.choices[0].token_ids

    def stream(self, model: str, prompt: Any, new: int = NEW) -> tuple[list[int], int]:
        """Greedy tokens as they come, and in how many pieces."""
        tokens, pieces = [], 0
        for part in self.api.completions.create(
            model=model, prompt=prompt, max_tokens=new, temperature=0, stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        ):  # fmt: skip
            if part.choices and (ids := getattr(part.choices[0], "token_ids", None)):
                tokens += ids
                pieces += 1
        return tokens, pieces

    def error(self, **request: Any) -> tuple[int, str]:
        """Status and message of a request that fails; 200 where it does not."""
        from openai import APIStatusError

        try:
            self.api.completions.create(**{"prompt": "a", "max_tokens": 1, **request})
        except APIStatusError as exc:
            report = exc.body if isinstance(exc.body, dict) else {}
            return exc.status_code, str(report.get("message", exc.message))
        return 200, ""

    def ask(self, path: str, body: bytes | None = None, key: str | None = None) -> tuple[int, str]:
        """Status and text of an answer, without a client library."""
        asked = urllib.request.Request(f"{self.address}{path}", body, {"Content-Type": "application/json"})
        if key is not None:
            asked.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(asked, timeout=600) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def models(self, path: str, **body: Any) -> set[str]:
        """What an answer, or each event of a stream, says of who answered."""
        text = self.ask(path, json.dumps(body).encode(), KEY)[1]
        lines = (
            [line[6:] for line in text.splitlines() if line.startswith("data: {")] if body.get("stream") else [text]
        )
        events = [json.loads(line) for line in lines]
        inner = [e.get("response") or e.get("message") or e for e in events]
        return {e["model"] for e in inner if isinstance(e, dict) and "model" in e}

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric over what has these labels."""
        text = self.ask("/metrics", key=KEY)[1]
        total = 0.0
        for line in text.splitlines():
            if re.match(rf"{re.escape(name)}(\{{|\s)", line) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total
