# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What every benchmark does with what it found: print a table, write it and the figures, fail on a missed target."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser that has `--json` and `--markdown`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    if not rows:
        return "*No runs yet.*\n"
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def resident(name: str, process: int | str = "self") -> int:
    """Bytes that /proc says of a process: VmRSS, VmHWM or RssAnon.

    Raises:
        OSError: there is no such process, or it has ended.
    """
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/{process}/status has no {name}")


def save_svg(figure: Figure, path: Path) -> None:
    """Write a picture; drawn again of the same figures, it is the same file."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def deliver(args: argparse.Namespace, figures: Any, table: str, missed: Sequence[str] = ()) -> None:
    """Print and write.

    Args:
        args: of a parser made by `arguments`.
        found: figures, as JSON values.
        table: the same as Markdown.
        missed: targets that were missed; any makes the exit code 1.
    """
    print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(table)
    if missed:
        raise SystemExit(f"missed: {'; '.join(missed)}")
