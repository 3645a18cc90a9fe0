# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Keep a container's own releases: write them down as constraints before an installation, compare after it.

`python docker/keep.py write FILE`, then `pip install -c FILE …`, then `python docker/keep.py check FILE`, which exits
with 1 and a line for every change. Needs the standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

#: what a container must have, or it is no NeMo container; of alternatives, which "or" parts, at least one. Megatron-LM
#: is to bring Megatron-Bridge beside its core.
NEEDED = (
    "torch", "megatron-core or megatron-lm", "transformer-engine", "nemo-toolkit or megatron-bridge or megatron-lm",
)  # fmt: skip
#: what must stay as it is: all that is built against torch's binaries, and what NeMo was tested with
KEPT = re.compile(
    r"torch|torchvision|torchaudio|triton|pytorch-triton|megatron-.*|transformer-engine.*|mamba-ssm|causal-conv1d"
    r"|flash-attn.*|apex|nvidia-.*|nemo-.*|lightning|pytorch-lightning|transformers|numpy"
)


def normal(name: str) -> str:
    """A distribution's name as indexes spell it: lower case, dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def kept(installed: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> release of what must stay, from pairs of name and release.

    Raises:
        SystemExit: one of `NEEDED` is missing.
    """
    out = {normal(n): v for n, v in installed if KEPT.fullmatch(normal(n)) and normal(n) != "nemo-elastic"}
    missing = [names for names in NEEDED if not any(n in out for n in names.split(" or "))]
    if missing:
        raise SystemExit(f"error: not a NeMo container: {', '.join(missing)} not installed")
    return dict(sorted(out.items()))


def constraints(releases: Mapping[str, str]) -> str:
    """Lines that pip and uv take with -c."""
    return "".join(f"{name}=={version}\n" for name, version in releases.items())


def read(text: str) -> dict[str, str]:
    """What `constraints` wrote."""
    return dict(line.split("==", 1) for line in text.splitlines())


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """A line for every release that is not what it was, and for every newcomer that belongs to the kept ones."""
    names = sorted({*before, *after})
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def main(argv: list[str]) -> int:
    """Write or check; the exit code."""
    if len(argv) != 2 or argv[0] not in ("write", "check"):
        print("usage: keep.py write|check FILE", file=sys.stderr)
        return 2
    # a package may be there twice along the path: the first is the one that is imported, so it is read last
    found = [(d.metadata["Name"], d.version) for d in distributions() if d.metadata["Name"]]
    now = kept(reversed(found))
    file = Path(argv[1])
    if argv[0] == "write":
        file.write_text(constraints(now), encoding="utf-8")
        return 0
    changed = changes(read(file.read_text(encoding="utf-8")), now)
    for line in changed:
        print(f"error: the installation changed {line}", file=sys.stderr)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
