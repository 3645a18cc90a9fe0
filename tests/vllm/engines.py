# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The engine without a server, in processes of their own: `engine.py`, judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .cases import ROOT
from .expected import LARGE, SMALL, Checks, Expected
from .served import SHAPES


def longest_wait(steps: list[dict]) -> int:
    """The most steps of others that a member with a running request waited for; -1 where one was served twice."""
    waits: dict[str, list[str]] = {m: [] for m in SHAPES}
    most = 0
    for step in steps:
        for member, others in waits.items():
            if member not in step["running"] or member == step["served"]:
                others.clear()
            elif step["tokens"]:
                others.append(step["served"])
                if len(set(others)) < len(others):
                    return -1
            most = max(most, len(others))
    return most


def check_engine(place: Path, folder: Path, expected: Expected, checks: Checks) -> None:
    """The engine in a process of its own, watched from inside."""
    jobs, wanted = [], []
    for i, ids in enumerate(expected.ids):
        for member in SHAPES:
            jobs.append(({"member": member}, ids))
            wanted.append(expected.tokens[member][i])
        jobs.append(({"member": SMALL, "then": LARGE, "thinking_token_budget": 3 + i}, ids))
        wanted.append(expected.pair(i, None, 3 + i))
        jobs.append(({"member": "auto", "cost": 0.5}, ids))
        wanted.append(expected.auto(0.5)[1][i])
    (place / "engine.json").write_text(json.dumps(jobs), encoding="utf-8")
    out, log = place / "engine.out.json", place / "engine.log"
    if not run_engine("engine", log, place, folder, out):
        checks.tell("the engine", False, log.read_text(errors="replace")[-3000:])
        return
    report = json.loads(out.read_text(encoding="utf-8"))
    checks.equal("the engine without a server", report["tokens"], wanted)
    checks.equal("the engine after a request for an unknown member", report["again"], wanted[:3])
    checks.tell("that request", report["refused"] == "error", report["refused"])
    wait, empty = longest_wait(report["steps"]), sum(not s["tokens"] for s in report["steps"])
    checks.tell("steps of others that a running request waited for, at most", 0 <= wait < len(SHAPES), wait)
    checks.tell(
        "steps, and those that did nothing", empty < len(report["steps"]) / 4, f"{len(report['steps'])}, {empty}"
    )
    parts = sum(s["parts"] for s in report["steps"])
    checks.tell("prompts of auto whose last tokens came in several steps", parts > 0, parts)
    for what, holds in report["salts"].items():
        checks.tell(f"cached pages: {what}", holds, "yes" if holds else "no")
    checks.tell("what the scheduler keeps when all is done", report["left"] == 0 == report["pages"], report["left"])


def run_engine(module: str, log: Path, place: Path, *arguments: Path | str) -> bool:
    """Run a module of these tests in a process of its own; whether it went well."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"VLLM_CACHE_ROOT": str(place / "cache")}
    with log.open("wb") as said:
        command = [sys.executable, "-W", "ignore", "-m", f"tests.vllm.{module}", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=env, stdout=said, stderr=said, timeout=1800).returncode == 0
