# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What steps of the large recipes hold and do on a GPU that is not there: docs/tables/fake_gpu.md, with a picture.

    NEMO_ELASTIC_BRIDGE_PYTHON=PYTHON .venv/bin/python -m tests.fake_gpu.table FOLDER [--markdown FILE --picture FILE]

Results of jobs stay in the folder, and are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.output import save_svg
from benchmarks.study.results import markdown as table
from nemo_elastic.io.write import atomic_write
from tests.fake_gpu.cases import CASES, GIB, STAYS, WAITS, build, python_of, run, steps_of
from tests.fake_gpu.picture import draw

#: what makes slices lie side by side
SLICES = "nemo_elastic/core/prefix.py"
#: results, by name of the case
Results = dict[str, dict[str, Any]]


def results(folder: Path, workers: int) -> Results:
    """Of every case, several at once."""
    libraries = {python: build(python, folder) for python in {python_of(job) for job in CASES.values()}}

    def result(name: str) -> dict[str, Any]:
        place = folder / name.replace(",", "").replace(" ", "-")
        place.mkdir(exist_ok=True)
        kept = place / "result.json"
        job = CASES[name]
        return json.loads(kept.read_text()) if kept.exists() else run(job, libraries[python_of(job)], place)

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(CASES, pool.map(result, CASES), strict=True))


def gib(count: float) -> str:
    return f"{count / GIB:.1f}"


def memory(made: Results) -> str:
    """Bytes of a rank by phase, beside those of `plan`."""
    body = []
    for name, result in made.items():
        plan, start, steps = result["planned"], result["phases"][0], steps_of(result)
        peaks = [step["peak"] for step in steps]
        body.append([
            name, str(result["job"]["rank"]), result["layout"],
            gib(sum(plan[part] for part in STAYS)), gib(steps[-1]["live"]), gib(start["peak"]),
            gib(plan["total"]), ", ".join(map(gib, peaks)), f"{100 * (plan['total'] / max(peaks) - 1):+.1f} %",
        ])  # fmt: skip
    head = ["job", "rank", "layout", "kept, planned", "kept", "peak of the start", "peak, planned"]
    return table([*head, "peak of each step", "plan against the highest"], body)


def work(made: Results) -> str:
    """Launches and copies of a member's step, and collectives of the whole model's beside `plan`'s."""
    body = []
    for name, result in made.items():
        *_, member, whole = steps_of(result)
        ours = Counter({place: size for place, size in member["copies"].items() if place.startswith("nemo_elastic")})
        place, size = ours.most_common(1)[0]
        body.append([
            name, str(whole["launches"]), f"{member['launches']}, x {member['launches'] / whole['launches']:.2f}",
            gib(sum(member["copies"].values())),
            gib(sum(size for place, size in ours.items() if place.startswith(SLICES))),
            f"{gib(size)}: `{place.split(' < ')[0]}`",
            gib(sum(result["volumes"].values())), gib(sum(whole["sent"].values())),
        ])  # fmt: skip
    head = ["job", "launches, whole", "launches, member", "copied, member", "slices of it", "most of it by us"]
    return table([*head, "in collectives, whole, planned", "in collectives, whole"], body)


def waits(made: Results) -> str:
    """Where the host waits for the GPU in a step."""
    body = []
    for place, (_, why) in WAITS.items():
        counts = {name: max(sum(n for at, n in step["waits"].items() if at.startswith(place))
                            for step in steps_of(result)) for name, result in made.items()}  # fmt: skip
        found = {at.split(" < ")[0].rpartition(":")[2] for result in made.values() for step in steps_of(result)
                 for at in step["waits"] if at.startswith(place)}  # fmt: skip
        names = [name for name, count in counts.items() if count]
        lines = ", ".join(sorted(found, key=int)) if place.endswith(".py") else ""
        body.append([f"`{place}`", lines, why, str(max(counts.values())), f"{len(names)} of {len(made)} jobs"])
    return table(["CPU-GPU synchronization at", "lines", "for", "times a step, at most", "in"], body)


def markdown(made: Results) -> str:
    parts = (
        "GiB of one rank of 128:\n",
        memory(made),
        "A step's launches and GiB:\n",
        work(made),
        waits(made),
    )
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    made = results(given.folder, given.workers)
    text = markdown(made)
    if given.picture:
        save_svg(draw(made), given.picture)
    if given.markdown:
        atomic_write(given.markdown, text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
