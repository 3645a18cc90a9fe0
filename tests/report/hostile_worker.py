# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of runs whose files somebody has made to harm, within limits that the kernel holds: see test_hostile.py.

python -m tests.report.hostile_worker FOLDER RUN PAGE...: prints a JSON line for each page, by its number.
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.report import build_report, drawing, load_run

#: a picture in a page
DRAWN = re.compile("<img [^>]*>")
#: of all cases together
MEMORY, SECONDS = 4 * 2**30, 300
NAMES = {
    "mathematics": "$\\frac{1}{$ $a_b^c$ 5$ \\$",
    "a tag": "<script>alert(1)</script>&amp;\"'",
    "escapes": "\x1b[31mred\x07\n\n\r\u202egnp.exe\ud800",
    "length": "n" * 50_000,
    "lines": "\n" * 5_000,
    "other scripts": "成員 члены 🜨 é",
}  # fmt: skip
HUGE = {
    "large": 9e29, "small": -9e29, "tiny": 2e-30, "largest": 1e308, "smallest": -1e308, "denormal": 5e-324,
    "nan": float("nan"), "integer": 10**400, "text": "1", "list": [1.0], "nothing": None, "yes": True,
}  # fmt: skip
NUMBERS = ("large", "small", "tiny", "largest", "smallest", "denormal", "nan")


def deep(levels: int, value: Any = 1) -> Any:
    for i in range(levels):
        value = [value] if i % 2 else {"a": value}
    return value


def renamed(run: Path, member: str, name: str) -> None:
    """A member under another name, wherever a run may hold it."""
    results = json.loads((run / "metrics.json").read_text())
    row = next(m for m in results["members"] if m["name"] == member)
    row |= {"name": name, "pattern": name}
    row["answers"]["by_task"] = {name: {"correct": 30, "total": 48, "guessed": 0}}
    results["seconds"] |= {name: 1.0}
    results["targets"] |= {name: {"found": 1.0, "at_least": 0.5, "unit": name}}
    (run / "metrics.json").write_text(json.dumps(results))
    (run / "data" / "data.json").write_text(json.dumps({name: name, "a": [name, {name: name}]}))
    for stage in ("stage1", "stage2"):
        path = run / stage / "metrics.jsonl"
        path.write_text(path.read_text().replace(member, json.dumps(name)[1:-1]))
    for path in (run / "stage1" / "elastic").glob("*.json"):
        path.write_text(
            path.read_text().replace(f'"{member}"', json.dumps(name)).replace('"search"', json.dumps(name))
        )


def valued(run: Path, *values: Any) -> None:
    """Values in the place of numbers, in turn, each in a few of its lines."""
    turn = itertools.cycle(values)
    for stage in ("parent", "stage1", "stage2"):
        path = run / stage / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for i, line in enumerate(lines):
            for key in [k for k in line if i % 7 == 0 and k.startswith(("cost_", "entropy_", "router_", "seconds"))]:
                line[key] = next(turn)
            for own in line.get("compared", {}).values():
                own.update((number, next(turn)) for number in own)
            if line["kind"] == "heldout" and i % 2:
                line["losses"] = {name: next(turn) for name in line["losses"]}
        path.write_text("\n".join(map(json.dumps, lines)))
    for path in (run / "stage1" / "elastic" / "members.json", run / "metrics.json"):
        data = json.loads(path.read_text())
        if "report" in data:
            data["report"] |= {"step": next(turn)}
        else:
            data["members"][1] |= {"loss": next(turn), "parameters": next(turn), "recovered": next(turn)}
            data |= {"bigram_loss": next(turn), "seconds": {"a": next(turn)}}
        path.write_text(json.dumps(data))


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        path = run / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return make


def appended(name: str, lines: Callable[[], list[Any]]) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        with (run / name).open("a") as f:
            f.write("".join(json.dumps(line) + "\n" for line in lines()))

    return make


def late(k: int, kind: str = "step", **more: Any) -> dict[str, Any]:
    """A line behind all that the run has written."""
    return {"kind": kind, "step": 261 + k, "tokens": 10**6 + k, **more}


MANY = 100_000
SHAPES, MEMBERS = "stage1/elastic/shapes.json", "stage1/elastic/members.json"
#: case -> what makes it of a run
CASES: dict[str, Callable[[Path], None]] = {
    **{f"name: {what}": (lambda run, member=("1.1m", "0.8m", "1.6m")[i % 3], name=name: renamed(run, member, name))
       for i, (what, name) in enumerate(NAMES.items())},
    "values: numbers": lambda run: valued(run, *(HUGE[what] for what in NUMBERS)),
    "values: of other types": lambda run: valued(run, *(HUGE[what] for what in HUGE if what not in NUMBERS)),
    "many results": edited("metrics.json", lambda d: d | {"members": [{"name": "a"}] * MANY}),
    "many shapes": edited(SHAPES, lambda d: d | {"members": {str(i): {} for i in range(MANY)}}),
    "many candidates": edited(
        SHAPES, lambda d: d | {"report": {"candidates": {"0.8m": [d["members"]["0.8m"]] * MANY}}}
    ),
    "losses of candidates": edited(SHAPES, lambda d: d | {"report": d["report"] | {
        "candidate_losses": {"0.8m": [9e29, -1, 2e-30, "1"], "1.1m": 3}
    }}),
    "candidates of another type": edited(SHAPES, lambda d: d | {"report": {"candidates": [1]}}),
    "many comparisons": appended("stage1/metrics.jsonl", lambda: [
        late(k, compared={"0.8m": {"0": 0.1, "1": 0.2}}, candidates={"0.8m": [0, 1] * 99}) for k in range(MANY // 10)
    ]),
    "comparisons of other types": appended("stage1/metrics.jsonl", lambda: [
        late(0, compared=[1], candidates=[1]), late(1, compared={"0.8m": [1]}, candidates={"0.8m": {"0": 1}}),
        late(2, compared={"0.8m": {"0": deep(300), "": 1}}, candidates={"0.8m": [deep(9), True, -1, 1e300]}),
    ]),
    "many losses": appended("stage2/metrics.jsonl", lambda: [
        late(k, "heldout", losses={str(i): 1.0 for i in range(k * 900, k * 900 + 900)}) for k in range(120)
    ]),
    "many names": appended("stage1/metrics.jsonl", lambda: [
        late(k, **{f"entropy_{i}": 1.0 for i in range(k * 900, k * 900 + 900)}) for k in range(120)
    ]),
    "many steps": appended("stage1/metrics.jsonl", lambda: [
        late(k, router_tau=0.5, **{"cost_1.1m": 1.0}) for k in range(MANY)
    ]),
    "many facts": edited("data/data.json", lambda d: {str(i): {"a": list(range(1000))} for i in range(1000)}),
    "depth of facts": edited("data/data.json", lambda d: {"deep": deep(400)}),
    "depth of results": edited("metrics.json", lambda d: d | {"targets": {"deep": deep(400)}, "members": deep(100)}),
    "depth of a pattern": edited("metrics.json", lambda d: d | {"members": [{"name": "a", "pattern": deep(400)}]}),
    "depth of a report": edited(MEMBERS, lambda d: d | {"report": deep(400)}),
    "depth of a source": edited(SHAPES, lambda d: d | {"report": {"source": deep(400)}}),
    "depth of a line": appended("stage1/metrics.jsonl", lambda: [
        late(0, phase=deep(300), **{"cost_1.1m": deep(400)})
    ]),
    "a step of another type": edited(MEMBERS, lambda d: d | {"report": d["report"] | {"step": "130"}}),
}  # fmt: skip

#: cases that share a page, which takes seconds to draw: each is in a file or a name of its own
PAGES = (
    ("name: mathematics", "name: a tag", "name: other scripts"),
    ("name: escapes", "name: lines"),
    ("name: length", "many facts", "many comparisons"),
    ("values: numbers", "depth of facts", "losses of candidates"),
    ("values: of other types", "candidates of another type"),
    ("many results", "many candidates", "many losses", "many names"),
    ("many shapes", "many steps", "depth of results"),
    ("depth of a pattern", "depth of a report", "depth of a source", "depth of a line"),
    ("a step of another type", "comparisons of other types"),
)
assert sorted(case for page in PAGES for case in page) == sorted(CASES)


def main(folder: Path, whole: Path, *pages: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    drawing.DPI = 30
    for page in pages:
        cases, run = PAGES[int(page)], folder / page
        shutil.copytree(whole, run)
        for case in cases:
            CASES[case](run)
        began = time.monotonic()
        try:
            page = build_report(run)
            text = page.read_text(encoding="utf-8")
            report = {"pictures": len(list(page.parent.glob("*.png"))), "notes": load_run(run).notes,
                    "length": len(re.sub(DRAWN, "", text)), "drawn": sum(map(len, re.findall(DRAWN, text))),
                    "script": "<script" in text,
                    "printable": all(c.isprintable() or c == "\n" for c in text)}  # fmt: skip
        except ElasticError as error:
            report = {"refused": str(error)}
        print(json.dumps({"cases": cases, "seconds": time.monotonic() - began, **report}), flush=True)
        shutil.rmtree(run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
