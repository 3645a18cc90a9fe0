# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM in processes of its own: a server and a client of it, and functions of `inside.py`."""

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

import pytest

from tests.workers import ROOT, free_port

KEY = "a-key-of-a-test"
#: tokens of an answer
NEW = 24


def vllm_python() -> Path:
    """Python of vLLM's environment, where this project is installed; a test is skipped where there is none."""
    python = ROOT / os.environ.get("NEMO_ELASTIC_VLLM_PYTHON", ".venv-vllm/bin/python")
    if not python.exists():
        pytest.skip("vLLM is not here: `make test-vllm`")
    return python.absolute()


def environment(place: Path, **more: str) -> dict[str, str]:
    """Offline, and leaving nothing outside of a folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return clean | {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default takes half of the memory
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other processes may sit on the cores
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        "HF_MODULES_CACHE": str(place / "modules"), "VLLM_CACHE_ROOT": str(place / "cache"),
    } | more  # fmt: skip


def inside(do: str, folder: Path, place: Path, **job: Any) -> tuple[Any, str]:
    """The answer of a function of `inside.py`, None where it fails, and what it writes to stderr."""
    place.mkdir(exist_ok=True)
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [str(vllm_python()), "-W", "ignore", "-m", "tests.vllm.inside", do, str(folder), str(place)]
    env = environment(place, VLLM_ENABLE_V1_MULTIPROCESSING="0")  # its tracebacks then reach us
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    return (None if done.returncode else json.loads((place / "out.json").read_text())), done.stderr


@contextlib.contextmanager
def serving(place: Path, command: list[str], flags: list[str], **more: str) -> Iterator[Talk]:
    """A client of a server in a process of its own, once it answers.

    Args:
        place: where it leaves its cache and its log.
        command: the server, before its port.
        flags: what comes after its port.
        more: of its environment.
    """
    port, log = free_port(), place / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags], stdout=out, stderr=subprocess.STDOUT,
            env=environment(place, **more), cwd=place, start_new_session=True,
        )  # fmt: skip
        try:
            talk, until = Talk(f"http://127.0.0.1:{port}", log), time.monotonic() + 900
            while not talk.answers():
                assert process.poll() is None and time.monotonic() < until, talk.logged()[-4000:]
                time.sleep(1)
            yield talk
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


class Talk:
    """Requests of one client."""

    def __init__(self, address: str, log: Path) -> None:
        self.address, self.log = address, log

    def logged(self) -> str:
        return self.log.read_text(errors="replace")

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("/health")[0] == 200
        return False

    def ask(self, path: str, body: bytes | None = None, key: str | None = None) -> tuple[int, str]:
        """Status and text of an answer."""
        asked = urllib.request.Request(f"{self.address}{path}", body, {"Content-Type": "application/json"})
        if key is not None:
            asked.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(asked, timeout=600) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def events(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """The answer, or the events of a stream."""
        status, text = self.ask(path, json.dumps(body).encode(), KEY)
        assert status == 200, text
        streamed = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
        return [json.loads(each) for each in (streamed if body.get("stream") else [text])]

    def complete(self, model: str, prompt: Any, new: int = NEW, **more: Any) -> list[list[int]]:
        """Greedy tokens, in as many pieces as they come."""
        asked = {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True} | more
        events = self.events("/v1/completions", return_token_ids=True, **asked)
        return [e["choices"][0]["token_ids"] for e in events if e["choices"] and e["choices"][0].get("token_ids")]

    def tokens(self, model: str, prompt: Any, **more: Any) -> list[int]:
        return [i for piece in self.complete(model, prompt, **more) for i in piece]

    def error(self, key: str | None = KEY, **request: Any) -> tuple[int, str]:
        """Status and text of a short request."""
        body = {"prompt": "a", "max_tokens": 1} | request
        return self.ask("/v1/completions", json.dumps(body).encode(), key)

    def models(self, path: str, **body: Any) -> set[str]:
        """What an answer, or each event of a stream, says of who answered."""
        inner = [e.get("response") or e.get("message") or e for e in self.events(path, **body)]
        return {e["model"] for e in inner if isinstance(e, dict) and "model" in e}

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        text = self.ask("/metrics", key=KEY)[1]
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line))
