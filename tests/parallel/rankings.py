# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One parent, ranked, sorted and searched in several layouts of ranks.

python -m tests.parallel.rankings FOLDER PART...: leaves what one rank and the parts that are named have found, and
`rankings.json`, for `test_rankings.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.parallel.runs import Layout

ONE = Layout()
LAYOUTS = (Layout(tensor=2), Layout(tensor=2, sequence=True), Layout(tensor=4, sequence=True),
           Layout(tensor=2, data=2), Layout(data=2))  # fmt: skip
SEARCHED = {
    "shapes": "search",
    "importance": {"samples": 8, "depth_samples": 4},
    "search": {"candidates": 12, "tokens": 256},
}
#: the other ways to measure
FAST = {"importance": {"samples": 4, "ffn": "first", "aggregation": "mean", "depth": "cosine"}}
#: ranks that share a model
SHARED = Layout(tensor=2, sequence=True)


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
    for layout in (ONE, replace(SHARED, sharded=True)) if "straight" in parts else ():
        name = f"straight-{layout.tensor}"
        (facts, *_) = forks.run(place / name / "log", layout.world, from_the_teacher, place, place / name, layout)
        results[name] = facts
    stages = Layout(pipeline=2, teacher=False)
    results["stages"] = dict(zip(("codes", "said"), run("stages", stages, from_the_teacher), strict=True))
    return results


def main() -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)

    place = Path(sys.argv[1]).resolve()
    results = measure(place, sys.argv[2:])
    (place / "rankings.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
