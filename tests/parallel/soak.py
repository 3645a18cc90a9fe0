# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Train, kill, go on, cut, verify, again and again for some minutes; every kill at another point.

    python -m tests.parallel.soak [--minutes 20] [--seed N]

A cycle trains both stages of a tiny family and cuts its members, killed at random moments until it has survived some,
and must end with the tensors of a cycle that nobody killed and with members that `verify` accepts. Ends with exit code
1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.parallel import forks
from tests.parallel.compare import digests
from tests.parallel.faults import each
from tests.parallel.nemo import run
from tests.parallel.runs import host, prepare

#: kills that a cycle has to survive
EACH = 4
#: steps of each
STAGES = (6, 4)


def curriculum(place: Path, out: str) -> dict[str, Any]:
    """Both stages with a checkpoint after every step, and the members cut; each goes on where it stopped, and what is
    done is passed by."""
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint
    from nemo_elastic.slicing.family_folder import slice_family

    first, second = STAGES
    facts = run(place, each(f"{out}/one", steps=first))
    run(place, each(f"{out}/two", kind="stage2", steps=second, previous=(f"{out}/one", first), longer=True))
    (place / out / "cutting").touch()
    slice_family(str(last_checkpoint(place / out / "two")), str(place / out / "cut"))
    return facts


def undisturbed(place: Path) -> tuple[float, dict[str, str]]:
    """How long a curriculum takes that nobody kills, and what it ends with."""
    began = time.monotonic()
    forks.run(place / "log" / "quiet", 1, curriculum, place, "quiet")
    return time.monotonic() - began, digests(place / "quiet" / "two")


def survive(place: Path, out: str, rng: random.Random, took: float, hits: Counter[str], enough: int) -> bool:
    """Start and kill a curriculum until so many kills have hit something, or it ends before; whether what it went on
    from at last was its newest whole checkpoint."""
    while True:
        before, last = last_step(place / out / "one"), hits.total() - hits["starts"] >= enough
        ranks = forks.start(place / "log" / out, 1, curriculum, place, out)
        hits["starts"] += 1
        (code,) = ranks.wait() if last else ranks.wait_or_kill(rng.uniform(0.02, 0.5) * took)
        if code == 0:
            # a stage 1 that was done does not start
            return ranks.result().get("from", STAGES[0]) == before
        assert code == -9, ranks.said()
        hits[where(place / out)] += 1


def last_step(run: Path) -> int:
    """Steps of the newest whole checkpoint; 0 where there is none."""
    from nemo_elastic.hosts.common.checkpoints import NEMO

    files = NEMO.whole(run / "checkpoints")
    return int(files[-1].name.removeprefix("step=").removesuffix("-last")) + 1 if files else 0


def where(out: Path) -> str:
    """What a kill has interrupted, from what it left."""
    saving = [stage for stage in ("one", "two") if list((out / stage / "checkpoints").glob("*-unfinished"))]
    if saving:
        return "save"
    if (out / "cutting").exists():
        return "cutting"
    if not (out / "one" / "checkpoints").exists():
        return "start"
    done = list((out / "one" / "checkpoints").glob(f"step={STAGES[0] - 1}-last"))
    return "hand-over or stage 2" if done else "stage 1"


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
    counts, hits, rng = Counter[str](), Counter[str](), random.Random(seed)
    took, wanted = undisturbed(place)
    end = time.monotonic() + 60 * minutes
    while not counts["cycles"] or time.monotonic() < end:
        out, enough = f"cycle-{counts['cycles']}", hits.total() - hits["starts"] + EACH
        counts["newest whole checkpoints passed over"] += not survive(place, out, rng, took, hits, enough)
        counts["cycles"] += 1
        for what, n in hits.items():
            counts[what if what == "starts" else f"kills in: {what}"] = n
        check(place / out, wanted, counts)
        print(json.dumps(counts), flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    host().load()
    with tempfile.TemporaryDirectory(prefix="nemo-elastic-soak-") as place:
        prepare(Path(place))
        counts = soak(args.minutes, args.seed, Path(place))
    print(*(f"{count:>6}  {what}" for what, count in sorted(counts.items())), f"seed {args.seed}", sep="\n")
    if counts["folders refused"] or counts["ends with the tensors of a run that nobody killed"] < counts["cycles"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
