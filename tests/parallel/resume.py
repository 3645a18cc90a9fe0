# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that stop and go on: at every step, in another layout, with another block; `test_resume.py` asserts.

python -m tests.parallel.resume FOLDER PART...: leaves `resume.json`: a run without a stop, and the parts named.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.parallel.runs import Layout

STEPS = 4
#: step before which a run in pipeline stages is stopped
STOP = 3
#: under the router's masks for two steps, then on slices
SOFT = Layout(soft=True, micro_batches=2)
ROUTER = {"freeze_at": 0.5, "hidden": 16}
#: candidates are compared after the first step and after the third
FOUR, CUTS = Layout(halved=True, micro_batches=4), (0.25, 0.75)
TOKENS = 256
#: layouts of runs that compare a single candidate, early or late
ONE = {
    "pipeline": Layout(pipeline=2, micro_batches=2, halved=True),
    "replicas": Layout(data=2, micro_batches=2, mode="trainable", halved=True),
}


def stopped_everywhere(
    place: Path, parts: Collection[str], name: str = "stop", layout: Layout = SOFT
) -> dict[str, Any]:
    """One run without a stop, and one for every step at which it is to be killed and started again."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import digests
    from tests.parallel.table import metrics

    how: dict[str, Any] = {"steps": STEPS, "every": 1}
    how |= {"router": ROUTER} if layout.soft else {"halving": {"cuts": CUTS, "tokens": TOKENS}}
    results: dict[str, Any] = {}
    for stop in (None, *(step for step in range(1, STEPS) if f"{name} {step}" in parts)):
        out = place / f"{name}-{stop}"
        if stop is not None:
            ranks = forks.start(out / "log", 1, runs.train, place, out, layout, until=stop, **how)
            assert ranks.wait() == [-9], ranks.said()
        at_stop = shapes_of(out) if layout.halved and stop is not None else {}
        (facts,) = forks.run(out / "log", 1, runs.train, place, out, layout, **how)
        lines = [{k: line[k] for k in ("step", "candidates", "compared") if k in line} for line in metrics(out)]
        results[str(stop)] = {**{k: facts[k] for k in ("losses", "from", "samples")}, "state": digests(out),
                              "lines": lines, "shapes": at_stop}  # fmt: skip
    return results


def shapes_of(run: Path) -> dict[str, Any]:
    """Members that a run's newest checkpoint is read as having, and the small one that is cut out of it."""
    from nemo_elastic import slice_checkpoint
    from nemo_elastic.formats.hf.reading import MEMBER_FILE
    from nemo_elastic.formats.megatron.stored import read_shapes
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    family, cut = read_shapes(last_checkpoint(run)).family, run / "cut"
    assert family is not None
    slice_checkpoint(last_checkpoint(run), cut, member="small")
    own = {member.name: member.subnet.to_json() for member in family}
    return own | {"cut": json.loads((cut / MEMBER_FILE).read_text())["subnet"]}


def compared_elsewhere(place: Path, name: str) -> list[str]:
    """Tensors by which two runs of one candidate differ that compared it early or late: what it lost then."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import digests

    layout, ends = ONE[name], []
    for cut in CUTS:
        out = place / f"compared-{name}-{cut}"
        one = {"search": runs.HALVED["search"] | {"keep": 1}, "halving": {"cuts": [cut], "tokens": TOKENS}}
        forks.run(out / "log", layout.world, train_alone, place, out, layout, one)
        ends.append(digests(out))
    return sorted(tensor for tensor, value in ends[0].items() if ends[1][tensor] != value)


def train_alone(place: Path, out: Path, layout: Layout, block: dict[str, Any]) -> None:
    """A training that finds its shapes itself: its ranking is another than that of four candidates."""
    from tests.parallel import runs

    task = runs.elastic_task

    def with_shapes(*args: Any, **more: Any) -> Any:
        recipe = task(*args, **more)
        recipe.resume.restore_config.path = str(place / "ranked-one")
        return recipe

    runs.elastic_task = with_shapes
    runs.train(place, out, layout, STEPS, **block)


def resharded(place: Path) -> dict[str, Any]:
    """A step on one rank, two on two, one on one again; and what two ranks make of a checkpoint without a step."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import deviation, digests, stored, weights

    alone, moved = place / "stop-None", place / "moved"
    for layout, until in ((Layout, 1), (lambda **k: Layout(tensor=2, sequence=True, **k), STOP), (Layout, None)):
        where = layout(soft=True, micro_batches=2)
        ranks = forks.start(moved / "log", where.world, runs.train, place, moved, where, until=until,
                            steps=STEPS, every=1, router=ROUTER)  # fmt: skip
        codes = ranks.wait()
        assert codes == ([-9] * where.world if until else [0]), ranks.said()
    copied = place / "copied"
    shutil.copytree(alone / "checkpoints", copied / "checkpoints")
    forks.run(copied / "log", 2, save_at_once, place, copied, Layout(tensor=2, soft=True, micro_batches=2))
    return {
        "weights": deviation(weights(moved), weights(alone)) / runs.PEAK,
        "identical": digests(copied / "saved") == digests(alone),
        "tensors": len(stored(copied / "saved")),
        "members": cut_both(alone, copied / "saved", place),
    }


def in_stages(place: Path) -> dict[str, Any]:
    """A run in pipeline stages with a teacher: without a stop, stopped and gone on, and gone on with on one rank."""
    from tests.parallel import forks, runs
    from tests.parallel.compare import deviation, digests, weights

    how, layout = {"steps": STEPS, "every": 1, "router": ROUTER}, replace(SOFT, pipeline=2)
    held = {}
    for name, end in (("whole", layout), ("stopped", layout), ("alone", SOFT)):
        out = place / f"stages-{name}"
        if name != "whole":
            ranks = forks.start(out / "log", layout.world, runs.train, place, out, layout, until=STOP, **how)
            assert ranks.wait() == [-9] * layout.world, ranks.said()
        facts = forks.run(out / "log", end.world, runs.train, place, out, end, **how)[0]
        held[name] = {"from": facts["from"], "losses": facts["losses"]}
    held["identical"] = digests(place / "stages-stopped") == digests(place / "stages-whole")
    for name in ("whole", "alone"):
        held[name]["weights"] = deviation(weights(place / f"stages-{name}"), weights(place / "stop-None")) / runs.PEAK
    return held


def save_at_once(place: Path, out: Path, layout: Layout) -> None:
    """Load what is in `out`, and write it as this layout does, without a step between."""
    import fiddle
    import lightning.pytorch as pl

    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint
    from tests.parallel import runs

    class Saves(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            target = out / "saved" / "checkpoints" / "step=0-last"
            trainer.save_checkpoint(target)
            if trainer.is_global_zero:
                whole = last_checkpoint(out)
                shutil.copytree(whole / "context", target / "context")
            trainer.strategy.barrier()

    runs.quiet()
    task = fiddle.build(runs.elastic_task(place, out, layout, STEPS + 1, 1, router=ROUTER))
    task.keywords["trainer"].callbacks.append(Saves())
    task()


def cut_both(first: Path, second: Path, place: Path) -> bool:
    """Whether a member cut from either checkpoint has the same bytes."""
    from nemo_elastic import slice_checkpoint
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    files = []
    for i, run in enumerate((first, second)):
        out = place / f"cut-{i}"
        slice_checkpoint(last_checkpoint(run), out, member="small")
        files.append((out / "model.safetensors").read_bytes())
    return files[0] == files[1]


def other_blocks(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """What a run says that goes on with another block."""
    from tests.parallel import forks, runs

    out = place / "blocks"
    how: dict[str, Any] = {"steps": STEPS, "every": 1}
    changes: dict[str, dict[str, Any]] = {
        "seed": {"seed": 4},
        "axes": {"axes": runs.BLOCK["axes"] | {"hidden": [32, 28, 24]}},
        "sampling": {"sampling": {"full": 1, "large": 1, "small": 2}},
    }
    results = {}
    for name, change in changes.items():
        if name not in parts:
            continue
        shutil.rmtree(out, ignore_errors=True)
        forks.start(out / "log", 1, runs.train, place, out, Layout(), until=1, **how).wait()
        ranks = forks.start(out / "log", 1, runs.train, place, out, Layout(), **how, **change)
        results[name] = {"code": ranks.wait()[0], "said": ranks.said()}
    return results


def main(place: Path, *parts: str) -> None:
    import nemo_elastic.hosts.nemo.recipe.apply  # noqa: F401  (once, for all ranks)
    from tests.parallel import forks, runs

    forks.prepare(place, whole=False)
    one = {"search": runs.HALVED["search"] | {"keep": 1}}
    for layout, changes, ranked in (
        (Layout(), {}, ""), (SOFT, {"router": ROUTER}, ""), (FOUR, {}, ""), (FOUR, one, "ranked-one"),
    ):  # fmt: skip
        checkpoint = place / ranked if ranked else runs.ranked(place, layout)
        forks.run(place / "rank" / checkpoint.name, 1, runs.rank, place, place / "rank" / checkpoint.name, layout,
                  checkpoint, **changes)  # fmt: skip
    actual = {"stops": stopped_everywhere(place, parts), "blocks": other_blocks(place, parts)}
    if any(part.startswith("halved") for part in parts):
        actual["halved"] = stopped_everywhere(place, parts, "halved", FOUR)
        (shapes, *_) = (place / "rank").glob("*halved*/elastic/shapes.json")
        actual["candidates"] = json.loads(shapes.read_text())["report"]["candidates"]
    actual["compared"] = {name: compared_elsewhere(place, name) for name in ONE if f"compared {name}" in parts}
    for name, run in {"resharded": resharded, "stages": in_stages}.items():
        if name in parts:
            actual[name] = run(place)
    (place / "resume.json").write_text(json.dumps(actual))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
