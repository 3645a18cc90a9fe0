# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Run a study and print its table; what has a result in the folder of its runs is not run again.

    python -m benchmarks.study nesting [--runs runs/study/nesting] [--seeds 0 1 2] [--markdown FILE]

Every study takes one core, and some hours of it. `python -m benchmarks.study NAME --help` has its own options.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from pathlib import Path

from nemo_elastic.errors import ElasticError

STUDIES = ("shapes", "baselines", "nesting", "quantize", "real", "drafts", "top_k")


def main() -> None:
    name, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name not in STUDIES:
        print(f"{__doc__}\nNAME: {name or 'missing'}; one of {', '.join(STUDIES)}", file=sys.stderr)
        raise SystemExit(0 if name in ("-h", "--help") else 2)
    module = importlib.import_module(f"benchmarks.study.{name}")  # each needs other packages
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"benchmarks.study {name}", description=module.__doc__, formatter_class=formatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/study", name), help="folder that keeps its runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of make demo")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    module.options(parser)
    args = parser.parse_args(words)
    import torch

    torch.set_num_threads(1)
    args.runs = args.runs.resolve()
    args.runs.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # progress
            table = module.study(args)
    except ElasticError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    print(table, end="")
    if args.markdown:
        args.markdown.write_text(table)


if __name__ == "__main__":
    main()
