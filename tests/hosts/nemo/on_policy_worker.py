# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member that writes half of its micro-batches through NeMo: behind packed prompts, and on text in a killed run.

python -m tests.hosts.nemo.on_policy_worker FOLDER: leaves `facts.json`; `test_on_policy.py` asserts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.hosts.nemo.packed_worker import packed_task
from tests.parallel.runs import Layout

STEPS, STOP, MICRO_BATCHES = 4, 2, 2
LAYOUT = Layout(micro_batches=MICRO_BATCHES)
OWN = {"distill": {"on_policy": 0.5}}


def watch(facts: dict[str, Any]) -> None:
    """From here on what is written in this process is kept: all of the first, and how much counts in each."""
    from nemo_elastic.train.training import FamilyTraining

    written, facts["counted"] = FamilyTraining.written, []

    def watched(self: Any, host: Any, samples: Any, rows: Any, documents: Any = None) -> Any:
        new = written(self, host, samples, rows, documents)
        facts["counted"].append([samples[0].on_policy, int(rows.mask_bs.sum()), int(new.mask_bs.sum())])
        if samples[0].on_policy and documents is not None and "rows" not in facts:
            facts["rows"], facts["new"] = ([t.tolist() for t in each] for each in (rows, new))
            facts["ends"], facts["stop_ids"] = documents.ends, list(host.stop_ids)
            facts["turn"] = [self.config.seed, self.stage, *self._sampled]
        return new

    FamilyTraining.written = watched


def packed(place: Path) -> dict[str, Any]:
    """One step on packed prompts."""
    import fiddle

    facts: dict[str, Any] = {}
    watch(facts)
    fiddle.build(packed_task(place, place / "packed", LAYOUT, 1, **OWN))()
    return facts


def train(place: Path, out: Path, until: int | None = None) -> dict[str, Any]:
    """Some steps on text; see `runs.train`."""
    from tests.parallel import runs

    facts: dict[str, Any] = {}
    watch(facts)
    return facts | runs.train(place, out, LAYOUT, STEPS, 1, until, sampling={"large": 1}, **OWN)


def main(place: Path) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from nemo_elastic import slice_checkpoint
    from tests.hosts.bridge.runs import write_prompts
    from tests.parallel import forks, runs
    from tests.parallel.compare import digests

    forks.prepare(place)
    write_prompts(place)
    facts: dict[str, Any] = {}
    (facts["packed"],) = forks.run(place / "packed" / "log", 1, packed, place)
    slice_checkpoint(runs.ranked(place, LAYOUT), place / "large", member="large")
    for name, until in (("whole", None), ("stopped", STOP)):
        out = place / name
        if until is not None:
            ranks = forks.start(out / "log", 1, train, place, out, until)
            assert ranks.wait() == [-9], ranks.said()
        (facts[name],) = forks.run(out / "log", 1, train, place, out)
        facts[name]["state"] = digests(out)
    (place / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
