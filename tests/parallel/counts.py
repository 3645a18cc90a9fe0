# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How many faults were survived and how many inputs refused, by one command.

    python -m tests.parallel.counts FOLDER [--markdown FILE]

Runs what is in `faults.py`, and the tests of bad input, of files from elsewhere and of random ones. Ends with exit
code 1 where anything was not as the tests want it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.parallel.faults import measure_all
from tests.workers import ROOT, work

#: what is refused -> the tests that say so, one for each input
REFUSED = {
    "bad inputs reported in one line, exit code 2, nothing left": "tests/bad_input/test_bad_input.py::"
    "test_bad_input_is_one_line_and_leaves_nothing",
    "checks of files from elsewhere that carry code, bombs or lies": "tests/test_untrusted.py",
    "pickles that name or do what describes no data": "tests/formats/megatron/test_no_code_runs.py",
    "checkpoints that carry code, lie about themselves or are cut": "tests/formats/megatron/test_torch_files.py",
}
FUZZED = ("tests/test_fuzz_readers.py",)


def survived(results: dict[str, Any], seconds: float = 30) -> dict[str, int]:
    """Counts of what faults.py did to runs, all of which ended as they should (`test_faults.py` asserts)."""
    kills, poisoned = results["kills"], results["not finite"]
    rows = {f"SIGKILL in: {place}": count for place, count in sorted(kills["hits"].items())}
    rows["runs of two stages that ended bit for bit as without kills"] = sum(kills["runs"])
    rows["values that are not finite, named and stopped or left out"] = len(poisoned)
    rows["saves without room, and the run went on later"] = sum(run["same"] for run in results["disk"].values())
    rows["dead ranks that ended the others within seconds"] = sum(
        r["seconds"] < seconds for r in results["dead"].values()
    )
    lost = results["damaged"].values()
    rows["checkpoints damaged: the one before was taken, or nothing where none was whole"] = sum(
        run.get("same", run["codes"] == [2]) for run in lost
    )
    rows["checkpoints that carry code, refused by a run before anything opened them"] = sum(
        run["codes"] == [2] and not run["ran"] for run in results["hostile"].values()
    )
    return rows


def passed(tests: str) -> int:
    """How many tests of a file pass.

    Raises:
        SystemExit: one fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:xdist", tests],
        cwd=ROOT, env=os.environ | {"NEMO_ELASTIC_FUZZ": "all"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    match = re.search(r"(\d+) passed", done.stdout)
    if done.returncode or match is None:
        raise SystemExit(done.stdout[-3000:])
    return int(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    work("tests.parallel.forks", measure_all.__module__, measure_all.__name__, args.folder.resolve())
    rows = survived(json.loads((args.folder / "results.json").read_text()))
    rows |= {what: passed(tests) for what, tests in REFUSED.items()}
    from tests.hostile import EXAMPLES

    for tests in FUZZED:
        passed(tests)
    rows["random blocks, families and files: a valid object or one line"] = sum(EXAMPLES.values())
    text = "\n".join(["| what | count |", "|---|---:|", *(f"| {what} | {n:,} |" for what, n in rows.items())]) + "\n"
    print(text)
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()
