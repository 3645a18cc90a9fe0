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
from typing import Any

from tests.parallel.runs import Layout

#: kills that a cycle has to survive
EACH = 4


def whole(place: Path, out: Path, layout: Layout) -> dict[str, Any]:
    """Both stages, then the family and its members as folders; what is done already is passed by."""
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint
    from nemo_elastic.slicing.family_folder import slice_family
    from tests.parallel.faults import curriculum

    facts = curriculum(place, out, layout)
    (out / "cutting").touch()
    slice_family(str(last_checkpoint(out / "two")), str(out / "cut"))
    return facts


def cycle(place: Path, out: Path, rng: random.Random, took: float, counts: Counter[str]) -> None:
    """One cycle, killed until it has survived enough."""
    from tests.parallel import forks
    from tests.parallel.faults import where

    kills = 0
    while True:
        ranks = forks.start(out / "log", 1, whole, place, out, Layout())
        counts["starts"] += 1
        (code,) = ranks.wait(600) if kills == EACH else ranks.wait_or_kill(rng.uniform(0.02, 0.4) * took)
        if code == 0:
            return
        if code != -9:
            raise SystemExit(f"a start ended with {code}: {ranks.said()}")
        kills += 1
        counts[f"kills in: {'cutting' if (out / 'cutting').exists() else where(out)}"] += 1


def check(out: Path, wanted: dict[str, str], counts: Counter[str]) -> None:
    """The end of a cycle: its tensors, its members, and nothing beside them."""
    from nemo_elastic.slicing.verification import verify
    from tests.parallel.compare import digests

    counts["ends with the tensors of a run that nobody killed"] += digests(out / "two") == wanted
    for folder in [out / "cut" / "family", *sorted((out / "cut" / "members").iterdir())]:
        report = verify(folder)
        report = verify(folder)
        counts["folders verified"] += report.ok
        counts["folders refused"] += not report.ok
    counts["half-written files"] += sum(1 for p in out.rglob("*") if "unfinished" in p.name or ".tmp" in p.name)


def soak(minutes: float, seed: int, place: Path) -> Counter[str]:
    """Cycles until the time is over; one that has begun ends."""
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks
    from tests.parallel.compare import digests

    counts: Counter[str] = Counter()
    rng = random.Random(seed)
    forks.prepare(place)
    began = time.monotonic()
    forks.run(place / "quiet" / "log", 1, whole, place, place / "quiet", Layout(), seconds=600)
    took = time.monotonic() - began
    wanted, end = digests(place / "quiet" / "two"), time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        out = place / f"cycle-{counts['cycles']}"
        cycle(place, out, rng, took, counts)
        counts["cycles"] += 1
        check(out, wanted, counts)
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
