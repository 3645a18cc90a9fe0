# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks one after the other, keep their tables, and put them into docs/benchmarks.md.

    python -m benchmarks [NAME …] [--page]

The page's words are in `benchmarks/page.md`; each `{{ bench_x }}` there becomes the table that bench_x printed last.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

from benchmarks import chart
from benchmarks.output import save_svg

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "docs" / "tables"
PICTURE = ROOT / "docs" / "images" / "measured.svg"
#: benchmark -> more arguments, in the order of the page; `make bench-slice` cuts the 12B at its full size
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "bench_step": (),
    "bench_distill": (),
    "bench_teacher": (),
    "bench_memory": (),
    "bench_chunk": (),
    "bench_rank": (),
    "bench_start": (),
    "bench_runtime": (),
    "bench_speculation": (),
    "bench_slice": ("--layers", "8", "--rounds", "3"),
    "bench_slice_experts": (),
    "bench_slice_quantized": (),
}
#: benchmark of another environment -> the target that makes its table
APART = {
    "bench_step_experts": "make bench-step-experts",
    "bench_launches": "make bench-launches",
    "bench_volumes": "make bench-volumes",
    "bench_latency": "make bench-latency",
    "bench_plan_memory": "make bench-plan",
}


def page() -> str:
    """docs/benchmarks.md, from its words and the tables."""

    def table(match: re.Match[str]) -> str:
        return indent((TABLES / f"{match[2]}.md").read_text().strip(), match[1])

    return re.sub(r"^( *)\{\{ (\w+) \}\}", table, (Path(__file__).parent / "page.md").read_text(), flags=re.MULTILINE)


def picture() -> None:
    """The picture at the page's head."""
    save_svg(chart.draw(TABLES), PICTURE)


def run(name: str, arguments: tuple[str, ...]) -> tuple[float, int]:
    """One benchmark in a process of its own; returns its seconds and its exit code: not 0 where it misses a target."""
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *arguments]
    began = time.monotonic()
    done = subprocess.run([*command, "--markdown", str(TABLES / f"{name}.md")], cwd=ROOT, check=False)
    return time.monotonic() - began, done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--page", action="store_true", help="run none, only write the page")
    args = parser.parse_args()
    unknown = [n for n in args.names if n not in BENCHMARKS]
    if unknown:
        own = APART.get(unknown[0], f"one of {', '.join(BENCHMARKS)}")
        parser.error(f"NAME: {unknown[0]} is not allowed; {own}")
    seconds = {}
    for name in [] if args.page else args.names or BENCHMARKS:
        print(f"== {name}", flush=True)
        seconds[name] = run(name, BENCHMARKS[name])
    (ROOT / "docs" / "benchmarks.md").write_text(page())
    picture()
    for name, (took, code) in seconds.items():
        print(f"{name:16} {took:6.0f} s{'  missed or failed, see above' if code else ''}")
    if seconds:
        print(f"{'all':16} {sum(took for took, _ in seconds.values()):6.0f} s")
    if any(code for _, code in seconds.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
