# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members cut from one family decode greedily to the same tokens in vLLM, in transformers and in our own runtime.

A family with random weights is written, its members are cut, and every folder is decoded by the three in float32. This
is no part of the default suite: `make test-vllm` sets up the environments and runs

    python -m tests.vllm.parity [--markdown FILE]

The exit code is 1 unless every row is as expected. What makes equal tokens mean something is checked as well: the best
token leads by far more than the two differ, texts vary, and no two members say the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.core.cost import parameters
from nemo_elastic.formats.hf.config import PLAIN, PUZZLE
from nemo_elastic.io.write import atomic_write
from nemo_elastic.runtime import load_family
from tests.support.figures import largest

from .cases import CASES, ROOT, Case, write_folders

NEW = 24
#: Fewer different tokens in a continuation would be a loop, which proves little.
VARIED = 8
#: So many times further must the best token lead than log-probabilities differ: no tie decides.
MARGIN = 10


def run(python: Path, script: str, place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in another environment, offline, leaving nothing outside `place`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    own = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules"), "VLLM_CACHE_ROOT": str(place / "cache")}
    command = [str(python.absolute()), str(Path(__file__).with_name(script)), str(place), *args]
    return subprocess.run(command, env=clean | own, cwd=place, capture_output=True, text=True, timeout=600)


def decode_all(
    place: Path, cases: Mapping[str, Case], texts: list[str], transformers: Path, vllm: Path
) -> dict[str, Any]:
    """Decode each folder with transformers, vLLM and our runtime.

    Args:
        place: Where the folders are.
        cases: Name of a folder -> its member.
        texts: The prompts.
        transformers: The python that has it.
        vllm: The python that has it.

    Returns:
        `transformers` and `vllm`: versions. `cases`: name of the folder -> what each of them gave, `error` instead of
        `vllm` where that failed.
    """
    job = {"texts": texts, "new": NEW, "folders": {name: case.remote for name, case in cases.items()}}
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = run(transformers, "decode_transformers.py", place)
    if done.returncode:
        sys.exit(f"transformers failed:\n{done.stderr[-3000:]}")
    reference = json.loads((place / "transformers.json").read_text(encoding="utf-8"))
    out: dict[str, Any] = {"transformers": reference["version"], "vllm": None, "cases": {}}
    for name in cases:
        print(f"== {name}", flush=True)
        ran = reference["ran"][name]
        ours = load_family(place / name).select().generate([r["prompt"] for r in ran], NEW, ())
        out["cases"][name] = {"transformers": ran, "runtime": ours}
        done = run(vllm, "decode_vllm.py", place, name)
        if done.returncode:
            out["cases"][name]["error"] = done.stderr[-20000:]
        else:
            data = json.loads((place / f"{name}.vllm.json").read_text(encoding="utf-8"))
            out["vllm"] = data["version"]
            out["cases"][name]["vllm"] = data["ran"]
    return out


def judge(case: Case, got: dict[str, Any]) -> dict[str, Any]:
    """One row of the table; `faults` says what is not as it should be."""
    reference = got["transformers"]
    tokens = [r["tokens"] for r in reference]
    lead = float(np.min(list(itertools.chain(*(r["lead"] for r in reference)))))
    faults = []
    if got["runtime"] != tokens:
        faults.append("the runtime gives other tokens")
    if min(len(set(row)) for row in tokens) < VARIED:
        faults.append("the text hardly varies")
    served, differ = got.get("vllm"), None
    if case.refused:
        if case.refused not in got.get("error", ""):
            faults.append(f"vLLM does not say {case.refused!r}")
    elif served is None:
        faults.append(f"vLLM fails\n{got['error'][-3000:]}")
    else:
        if [r["prompt"] for r in served] != [r["prompt"] for r in reference]:
            faults.append("vLLM reads other tokens in the prompts")
        if [r["tokens"] for r in served] != tokens:
            faults.append("vLLM gives other tokens")
        pairs = [zip(a["logprobs"], b["logprobs"], strict=True) for a, b in zip(reference, served, strict=True)]
        differ = largest(abs(x - y) for x, y in itertools.chain(*pairs))
        if not differ * MARGIN <= lead:
            faults.append(f"log-probabilities differ by {differ:.1e}, the best token leads by {lead:.1e}")
    return {
        "member": case.title,
        "model_type": PUZZLE if case.remote else PLAIN,
        "parameters": f"{parameters(case.parent, case.member):,}",
        "vLLM": _agreement(tokens, [r["tokens"] for r in served])
        if served
        else "refused"
        if case.refused
        else "fails",
        "runtime": _agreement(tokens, got["runtime"]),
        "smallest lead": f"{lead:.1e}",
        "vLLM's log-probabilities differ by": "-" if differ is None else f"{differ:.1e}",
        "faults": faults,
    }


def _agreement(expected: list[list[int]], got: list[list[int]]) -> str:
    pairs = list(zip(itertools.chain(*expected), itertools.chain(*got), strict=True))
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"


def table(rows: list[dict[str, Any]], reports: dict[str, Any]) -> str:
    """The result in Markdown."""
    head = [key for key in rows[0] if key != "faults"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    lines += [f"| {' | '.join(row[key] for key in head)} |" for row in rows]
    lengths = [str(len(r["prompt"])) for r in next(iter(reports["cases"].values()))["transformers"]]
    lines += [
        "",
        f"vLLM {reports['vllm']} and transformers {reports['transformers']} on a CPU, float32, greedy; prompts of",
        f"{', '.join(lengths)} tokens, {NEW} new ones each.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers", type=Path, default=ROOT / ".venv-hf/bin/python", help="python that has it")
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm/bin/python", help="python that has it")
    parser.add_argument("--markdown", type=Path, help="write the table to this file if all is well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary).resolve()
        report = decode_all(place, CASES, write_folders(place), args.transformers, args.vllm)
    rows = [judge(case, report["cases"][name]) for name, case in CASES.items()]
    text = table(rows, report)
    print(text)
    faults = [f"{row['member']}: {fault}" for row in rows for fault in row["faults"]]
    said = {json.dumps([r["tokens"] for r in case["transformers"]]) for case in report["cases"].values()}
    if len(said) < len(CASES):
        faults.append("two members say the same")
    if faults:
        print("\n".join(faults), file=sys.stderr)
    elif args.markdown:
        atomic_write(args.markdown, text)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
