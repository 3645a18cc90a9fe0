# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family behind one engine of vLLM, against its members' folders in engines of stock vLLM: memory, speed, switching.

    python -m benchmarks.serving [--vllm .venv-vllm/bin/python] [--dtype bfloat16] [--place DIR] [--json FILE]

A random family of 0.3B parameters is written to a temporary folder and its members are cut out. Four engines live at
the same time, each in a process of its own, and are asked in turn; those that are not asked do nothing.

- memory: anonymous bytes of the engine's process after it has answered, above those before it loads: weights, cache
  (as many pages in each engine) and what vLLM keeps beside them.
- throughput: a batch of prompts to a member of the family and to its own folder, in turn, each as often first as
  second.
- mixed load: the prompts of all members at once, with places and pages for all of them, against one member's after the
  other's, in the same engine.
- switch: two members with one request each take turns with every token. The time of that, less that of both requests
  alone, by token: what it costs that the next step is another member's. Requests of one member share steps, so this is
  not what two requests of one member would take.

Every time is the quickest of all rounds: what else a machine does only ever adds to one. Nothing is compiled
(`enforce_eager`), on either side. Ends with exit code 1 if a target is missed. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.output import arguments, deliver, markdown

if TYPE_CHECKING:
    from nemo_elastic.core.family import Parent, Subnet

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("large", "half", "quarter")
PROMPTS, PROMPT, NEW, ROUNDS = 8, 64, 32, 10
#: enough for the requests of all members at once: with 48 the mixed load would measure how long they wait for memory
PAGES = 160
MEMORY, THROUGHPUT = 1.05, 0.95  # targets: at most, at least


def shapes() -> tuple[Parent, dict[str, Subnet]]:
    """Proportions of Nemotron Nano 12B v2 at two fifths of its width and few layers, with three members."""
    from nemo_elastic.core.family import Parent

    parent = Parent(
        "M-M*-M-M-", hidden=2048, vocab=12288, ffn=8192, mamba_heads=64, mamba_head_dim=64, mamba_groups=8, state=128,
        attention_heads=16, kv_heads=4, attention_head_dim=128, ffn_stripes=8,
    )  # fmt: skip
    half = {"hidden": 1536, "ffn": 5120, "mamba_heads": 48, "mamba_head_dim": 56, "attention_heads": 12}
    quarter = {"hidden": 1024, "ffn": 4096, "mamba_heads": 40, "mamba_head_dim": 48, "attention_heads": 8}
    members = parent.full, parent.uniform(range(8), **half), parent.uniform(range(6), **quarter)
    return parent, dict(zip(NAMES, members, strict=True))


def make(place: Path, dtype: str) -> dict[str, int]:
    """Write the family and its members; their parameters."""
    import torch

    from nemo_elastic.core.cost import parameters
    from nemo_elastic.core.manifest import Family
    from nemo_elastic.nn.weights import random_state
    from nemo_elastic.slicing.family_folder import write_family
    from nemo_elastic.slicing.slicer import slice_checkpoint

    parent, members = shapes()
    state = random_state(parent, parent.full, dtype=getattr(torch, dtype))
    write_family(place / "family", parent, state, Family.of(parent, members))
    for name in NAMES:
        slice_checkpoint(place / "family", place / name, member=name)
    return {name: parameters(parent, member) for name, member in members.items()}


class Engine:
    """`serving_engine.py` in a process of its own."""

    def __init__(self, python: Path, folder: Path, dtype: str) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"PYTHONPATH": str(ROOT)}
        env["VLLM_CACHE_ROOT"] = str(folder.parent / "cache")
        self._log = folder.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-W", "ignore", "-m", "benchmarks.serving_engine", str(folder), dtype, str(PAGES)],
                env=env, cwd=folder.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.version = self._read()["version"]

    def ask(self, asked: list[tuple[str | None, list[int]]], new: int = NEW) -> dict[str, Any]:
        """Seconds, tokens and memory of a job."""
        assert self._process.stdin is not None
        print(json.dumps({"asked": asked, "new": new}), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"an engine ended:\n{self._log.read_text(errors='replace')[-3000:]}")
        return json.loads(line)


def measure(python: Path, place: Path, dtype: str, rounds: int) -> dict[str, Any]:
    """All measurements."""
    import numpy as np

    random = np.random.default_rng(0)
    figures: dict[str, Any] = {"parameters": make(place, dtype), "dtype": dtype}
    vocab = shapes()[0].vocab
    prompts = {name: random.integers(vocab, size=(PROMPTS, PROMPT)).tolist() for name in NAMES}
    engines: dict[str, Engine] = {}
    try:
        for name in ("family", *NAMES):
            engines[name] = Engine(python, place / name, dtype)
        family = engines["family"]
        figures["version"] = family.version
        of: dict[str, Any] = {name: [(name, ids) for ids in prompts[name]] for name in NAMES}
        alone: dict[str, Any] = {name: [(None, ids) for ids in prompts[name]] for name in NAMES}
        mixed = [of[name][i] for i in range(PROMPTS) for name in NAMES]
        one, other = of[NAMES[0]][:1], of[NAMES[-1]][:1]
        taken = []
        for i in range(rounds + 1):
            row: dict[str, Any] = {}
            for name in NAMES:
                pair = [(name, family, of[name]), (f"{name} alone", engines[name], alone[name])]
                for key, engine, asked in pair if i % 2 else reversed(pair):
                    row[key] = engine.ask(asked)
            row["mixed"] = family.ask(mixed)
            row["one"], row["other"] = family.ask(one), family.ask(other)
            row["both"] = family.ask(one + other)
            taken.append(row)
        taken = taken[1:]  # the first finds everything cold
        last = taken[-1]
        figures["memory"] = {"family": last["both"]["memory"]} | {n: last[f"{n} alone"]["memory"] for n in NAMES}
    finally:
        for engine in engines.values():
            engine.close()
    seconds = [{key: value["seconds"] for key, value in row.items()} for row in taken]
    quickest = {key: min(row[key] for row in seconds) for key in seconds[0]}
    figures["members"] = {
        name: {
            "tokens_per_second": PROMPTS * NEW / quickest[name],
            "alone": PROMPTS * NEW / quickest[f"{name} alone"],
            "ratio": quickest[f"{name} alone"] / quickest[name],
            "equal": _equal(last[name]["tokens"], last[f"{name} alone"]["tokens"]),
        }
        for name in NAMES
    }
    figures["mixed"] = quickest["mixed"] / sum(quickest[name] for name in NAMES)
    alone = quickest["one"] + quickest["other"]
    figures["switch_ms"], figures["step_ms"] = 1e3 * (quickest["both"] - alone) / (2 * NEW), 1e3 * alone / (2 * NEW)
    return figures


def _equal(got: list[list[int]], other: list[list[int]]) -> float:
    """Share of tokens that are equal, up to the first of each answer that is not."""
    same = 0
    for a, b in zip(got, other, strict=True):
        differs = [x != y for x, y in zip(a, b, strict=True)]
        same += differs.index(True) if any(differs) else len(a)
    return same / sum(map(len, other))


def missed(figures: dict[str, Any]) -> list[str]:
    """Targets that were not met."""
    memory = figures["memory"]["family"] / figures["memory"][NAMES[0]]
    return [f"memory <= {MEMORY} x the largest alone: {memory:.3f}"] * (memory > MEMORY) + [
        f"throughput of {name} >= {THROUGHPUT} x its own folder: {member['ratio']:.2f}"
        for name, member in figures["members"].items()
        if member["ratio"] < THROUGHPUT
    ]


def table(figures: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    memory = figures["memory"]
    family = memory["family"]
    largest, three = memory[NAMES[0]], sum(memory[name] for name in NAMES)
    size = f"{figures['parameters'][NAMES[0]] / 1e6:.0f}M, {figures['dtype']}, vLLM {figures['version']}"
    rows = [
        ["memory, the family", f"{family / 2**20:,.0f} MiB, {family / largest:.3f} x", f"{MEMORY} x"],
        ["memory, the largest member's folder in stock vLLM", f"{largest / 2**20:,.0f} MiB", ""],
        ["memory, three engines of stock vLLM", f"{three / 2**20:,.0f} MiB, {three / largest:.3f} x", ""],
        [f"mixed load over one member after the other, {PAGES} pages", f"{figures['mixed']:.2f} x", ""],
        ["a step of one request", f"{figures['step_ms']:.1f} ms", ""],
        ["a switch between members", f"{figures['switch_ms']:.2f} ms", ""],
    ]
    head = ["member", "parameters", "tokens/s", "own folder, stock vLLM", "family / own folder", "target",
            "equal tokens"]  # fmt: skip
    members = [
        [name, f"{figures['parameters'][name]:,}", f"{member['tokens_per_second']:.1f}", f"{member['alone']:.1f}",
         f"{member['ratio']:.2f}", str(THROUGHPUT), f"{member['equal']:.0%}"]
        for name, member in figures["members"].items()
    ]  # fmt: skip
    return markdown([size, "measured", "target"], rows) + "\n" + markdown(head, members)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm" / "bin" / "python", help="vLLM's Python")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--place", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    if not args.vllm.is_file():
        parser.error(f"--vllm: {args.vllm} is missing; make test-vllm makes it")
    with tempfile.TemporaryDirectory(dir=args.place) as place:
        figures = measure(args.vllm.absolute(), Path(place).resolve(), args.dtype, args.rounds)
    deliver(args, figures, table(figures), missed(figures))


if __name__ == "__main__":
    sys.exit(main())
