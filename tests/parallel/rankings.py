# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One parent, ranked, sorted and searched in several layouts of ranks; killed in the middle of one of them.

python -m tests.parallel.rankings FOLDER PART...: leaves what one rank and the parts that are named have found, and
`rankings.json`, for `test_rankings.py`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.parallel.runs import Layout

ONE = Layout()
LAYOUTS = (Layout(tensor=2), Layout(tensor=2, sequence=True), Layout(tensor=4, sequence=True),
           Layout(tensor=2, data=2), Layout(data=2))  # fmt: skip
SEARCHED = {
    "importance": {"samples": 8, "depth_samples": 4},
    "search": {"candidates": 12, "tokens": 256},
}
#: the other ways to measure
FAST = {"importance": {"samples": 4, "ffn": "first", "aggregation": "mean", "depth": "cosine"}}
#: ranks that share a model, of which one is killed in the middle of its save
KILLED, SAVE = Layout(tensor=2, sequence=True), 6


def killed(place: Path, out: Path, layout: Layout, save: int) -> None:
    """Rank, saving at every chance; the rank that writes is killed when its save is written but not in its place."""
    from nemo_elastic.ranking import unfinished
    from tests.parallel import runs

    unfinished.EVERY = 0.0
    put, left = os.replace, [save]

    def replaced(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name.startswith("ranking.unfinished"):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        put(source, target, **options)

    os.replace = replaced
    runs.rank(place, out, layout, out / "ranked", **SEARCHED)


def from_the_teacher(place: Path, out: Path, layout: Layout) -> dict[str, Any]:
    """Train without a ranking job before: members are found when training starts."""
    from tests.parallel import runs

    task = runs.elastic_task

    def without_ranking(*args: Any, **more: Any) -> Any:
        recipe = task(*args, **more)
        recipe.resume = None
        return recipe

    runs.elastic_task = without_ranking
    return runs.train(place, out, layout, 1, **SEARCHED)


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What layouts leave in `NAME/elastic` and `NAME/ranked`; what is said and lost besides."""
    from tests.parallel import forks, runs

    forks.prepare(place, whole=False)

    def run(name: str, layout: Layout, function: Any, *args: Any, **more: Any) -> tuple[list[int], list[str]]:
        ranks = forks.start(place / name / "log", layout.world, function, place, place / name, layout, *args, **more)
        return ranks.wait(), [ranks.said(r) for r in range(layout.world)]

    def whole(name: str, layout: Layout, **changes: Any) -> None:
        codes, said = run(name, layout, runs.rank, place / name / "ranked", **changes)
        assert not any(codes), said

    for layout in (ONE, *(one for one in LAYOUTS if one.name in parts)):
        whole(layout.name, layout, **SEARCHED)
    for layout in (ONE, Layout(tensor=2, sequence=True)) if "fast" in parts else ():
        whole(f"fast-{layout.name}", layout, **FAST)
    results: dict[str, Any] = {"parent": str(runs.parent(place))}
    if "kill" in parts:
        results |= kill(place, run)
    for layout in (ONE, replace(KILLED, sharded=True)) if "straight" in parts else ():
        name = f"straight-{layout.tensor}"
        (facts, *_) = forks.run(place / name / "log", layout.world, from_the_teacher, place, place / name, layout)
        results[name] = facts
    stages = Layout(pipeline=2, teacher=False)
    results["stages"] = dict(zip(("codes", "said"), run("stages", stages, from_the_teacher), strict=True))
    return results


def kill(place: Path, run: Callable[..., tuple[list[int], list[str]]]) -> dict[str, Any]:
    """A ranking that is killed, then refused to other ranks, then done by the same."""
    from tests.parallel import runs

    results: dict[str, Any] = {}
    results["kill"] = dict(zip(("codes", "said"), run("killed", KILLED, killed, SAVE), strict=True))
    results["left"] = sorted(p.name for p in (place / "killed" / "elastic").glob("ranking*"))
    other = partial(run, "killed", function=runs.rank, checkpoint=place / "killed" / "ranked", **SEARCHED)
    results["other"] = dict(zip(("codes", "said"), other(layout=Layout(data=2)), strict=True))
    results["again"] = dict(zip(("codes", "said"), run("killed", KILLED, killed, 0), strict=True))
    return results


def main() -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)

    place = Path(sys.argv[1]).resolve()
    results = measure(place, sys.argv[2:])
    (place / "rankings.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
