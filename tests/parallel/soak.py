# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Train, kill, go on, cut, verify, again and again for some minutes; every kill at another point.

    python -m tests.parallel.soak [--minutes 20] [--seed N] [--markdown FILE]

A cycle trains both stages of a tiny family and cuts its members, killed at random moments until it has survived some,
and must end with the tensors of a cycle that nobody killed and with members that `verify` accepts. Ends with exit code
1 otherwise.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.parallel.compare import digests
from tests.parallel.faults import survive, undisturbed
from tests.parallel.runs import host, prepare

#: kills that a cycle has to survive
EACH = 4


def check(out: Path, wanted: dict[str, str], counts: Counter[str]) -> None:
    """The end of a cycle: its tensors, its members, and nothing beside them."""
    from nemo_elastic.slicing.verification import verify

    counts["ends with the tensors of a run that nobody killed"] += digests(out / "two") == wanted
    for folder in [out / "cut" / "family", *sorted(p for p in (out / "cut" / "members").iterdir() if p.is_dir())]:
        report = verify(folder)
        counts["folders verified"] += report.ok
        counts["folders refused"] += not report.ok
    counts["half-written files"] += sum(1 for p in out.rglob("*") if "unfinished" in p.name or ".tmp" in p.name)


def soak(minutes: float, seed: int, place: Path) -> Counter[str]:
    """Cycles until the time is over; one that has begun ends."""
    host().load()
    counts, hits, rng = Counter[str](), Counter[str](), random.Random(seed)
    prepare(place)
    took, wanted = undisturbed(place, cutting=True)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        out, enough = f"cycle-{counts['cycles']}", hits.total() - hits["starts"] + EACH
        survive(
            place, out, rng, took, hits, lambda enough=enough: hits.total() - hits["starts"] >= enough, cutting=True
        )
        counts["cycles"] += 1
        for what, n in hits.items():
            counts[what if what == "starts" else f"kills in: {what}"] = n
        check(place / out, wanted, counts)
        print(json.dumps(counts), flush=True)
    return counts


def markdown(counts: Counter[str], minutes: float, seed: int) -> str:
    """The counts, in the order in which they came up, and when."""
    lines = [f"| {minutes:g} minutes on {datetime.date.today()}, seed {seed} | count |", "|---|---:|"]
    names = sorted(counts, key=lambda name: (not name.startswith(("cycles", "starts")), name))
    return "\n".join([*lines, *(f"| {name} | {counts[name]} |" for name in names)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nemo-elastic-soak-") as place:
        counts = soak(args.minutes, args.seed, Path(place))
    text = markdown(counts, args.minutes, args.seed)
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    if counts["folders refused"] or counts["ends with the tensors of a run that nobody killed"] < counts["cycles"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
