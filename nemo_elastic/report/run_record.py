# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Read what a run wrote. Every part may be missing; what is damaged is left out and noted on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from nemo_elastic.core.cost import MemorySpec, counts, memory, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.latency import LatencyTable
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.formats.folders import model_in, read_shapes
from nemo_elastic.io.read import read_json
from nemo_elastic.slicing.card import served_as

from ..errors import ElasticError, bad
from ..history import METRICS, read_history
from ..ranking import Ranking
from .result import LARGEST, MOST_NAMES, MemberResult, Results, few

CONFIG = "config.json"
#: a run's folders -> what their phases are called; the last is of one training by itself
PHASES = {"parent": "parent", "stage1": "stage 1", "stage2": "stage 2", "stage3": "stage 3", ".": "training"}
#: candidates of a budget that are shown: a run has no more
MOST_CANDIDATES = 8
#: folders of a run in which a parent is ranked, and shapes are found and frozen
_SHAPING = ("stage1", "rank", ".")

T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: Its folder.
        label: What it is called.
        steps: Lines of kind "step", in order.
        heldout: Lines of kind "heldout", in order.
        start: Tokens that earlier phases trained on.
    """

    name: str
    label: str
    steps: tuple[Mapping[str, Any], ...]
    heldout: tuple[Mapping[str, Any], ...]
    start: int = 0

    @cached_property
    def tokens(self) -> int:
        """Tokens of this phase."""
        return int(max((line["tokens"] for line in (*self.steps, *self.heldout)), default=0))

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one key of the step lines, where it is a finite number."""
        known = [(line["step"], x) for line in self.steps if (x := number(line.get(key))) is not None]
        return [step for step, _ in known], [x for _, x in known]

    def keys(self, prefix: str) -> list[str]:
        """Names behind a prefix such as "cost_", in the order of their first appearance."""
        names = dict.fromkeys(k[len(prefix) :] for line in self.steps for k in line if k.startswith(prefix))
        return list(names)[:MOST_NAMES]


@dataclass(frozen=True)
class ShapeHistory:
    """Shapes on their way: what was found first, what was frozen. Empty where unknown.

    Of a budget's candidates, which are numbered from 0, also the loss before training in nats per token.
    """

    first: Mapping[str, Subnet] = field(default_factory=dict)
    candidates: Mapping[str, Sequence[tuple[Subnet, float | None]]] = field(default_factory=dict)
    frozen: Mapping[str, Subnet] = field(default_factory=dict)
    source: str = "search"
    step: int | None = None


@dataclass
class RunRecord:
    """What is known of a run; None or empty for what it has not.

    Attributes:
        path: Its folder.
        data: `data/data.json`.
        phases: Training phases that wrote something, in order.
        ranking: Importance of the parent's channels.
        family: The trained family.
        shapes: How the shapes came about.
        results: The final figures.
        serving: What memory is counted for: the family's own dtype, as `nemo-elastic inspect` counts it.
        notes: What was left out, and why.
        latency: By which members are drawn over milliseconds; that of their budgets when None.
    """

    path: Path
    data: Mapping[str, Any] | None = None
    phases: tuple[Phase, ...] = ()
    ranking: Ranking | None = None
    family: Family | None = None
    shapes: ShapeHistory = field(default_factory=ShapeHistory)
    results: Results | None = None
    serving: MemorySpec = field(default_factory=MemorySpec)
    notes: list[str] = field(default_factory=list)
    latency: LatencyTable | None = None

    @property
    def parent(self) -> Parent | None:
        """The parent's shape, from whatever knows it."""
        known = self.family or self.ranking
        return known.parent if known else None

    @property
    def subnets(self) -> dict[str, Subnet]:
        """Members by name, from the largest, as finished as they are known."""
        if self.family:
            return {m.name: m.subnet for m in self.family}
        return dict(self.shapes.frozen or self.shapes.first)

    @property
    def before(self) -> MemberResult | None:
        """The parent as it was before elastic training, where it was measured beside the member that it became."""
        return self.results.before if self.results else None

    @property
    def names(self) -> list[str]:
        """Whatever has final figures or a shape: the parent as it was, then members from the largest."""
        measured_names = [m.name for m in self.results.members] if self.results else []
        if self.family:
            return [*(n for n in measured_names[:1] if self.before and n not in self.family.names), *self.family.names]
        measured = [n for p in self.phases for line in p.heldout for n in line["losses"] if p.name != "parent"]
        return measured_names or list(dict.fromkeys([*self.subnets, *measured]))[:MOST_NAMES]

    @cached_property
    def _places(self) -> dict[str, int]:
        ours = [n for n in self.names if not self._is_before(n)]
        seen = [n for p in self.phases for line in p.heldout for n in line["losses"] if not self._is_before(n)]
        seen += [n for p in self.phases for n in p.keys("cost_")]
        return {n: i for i, n in enumerate(dict.fromkeys([*ours, *self.subnets, *seen]))}

    def place(self, name: str) -> int | None:
        """The one place of a name in every picture, from the largest member; None is the parent as it was."""
        return self._places.get(name)

    def _is_before(self, name: str) -> bool:
        """Whether a name means the parent as it was: a stock model calls itself "parent" while it is trained."""
        known = self.family.names if self.family else ()
        return name not in known and (name == "parent" or (self.before is not None and name == self.before.name))

    @cached_property
    def shaping(self) -> Phase | None:
        """The phase in which candidates were compared, or a router chose the shapes."""
        return next((p for p in self.phases if p.keys("compared") or p.keys("entropy_") or p.keys("cost_")), None)

    def subnet_of(self, name: str) -> Subnet | None:
        """Its shape, where that is known."""
        if self.parent is not None and self._is_before(name):
            return self.parent.full
        return self.subnets.get(name)

    def active_of(self, name: str) -> int | None:
        """Parameters that one token meets, of a member with experts."""
        subnet = self.subnet_of(name)
        if self.parent is None or subnet is None:
            return None
        return counts(self.parent, subnet).get("active_parameters")

    def cost_of(self, name: str) -> tuple[int, int] | None:
        """Exact parameters and bytes in service, as `serving` says, of a member."""
        subnet = self.subnet_of(name)
        if self.parent is None or subnet is None:
            return None
        return int(parameters(self.parent, subnet)), int(memory(self.parent, subnet, self.serving))


def load_run(path: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        ElasticError: It is no folder, or holds nothing that a run writes.
    """
    path = Path(path)
    if not path.is_dir():
        raise bad("run", str(path), "a folder that a run wrote, e.g. runs/demo")
    run = RunRecord(path)
    run.data = _try(run, path / "data" / "data.json", _mapping)
    run.phases = _phases(run)
    run.ranking = _try(run, _written(path, "elastic/ranking"), Ranking.load)
    run.family = _try(run, path / "family", _family, needs=FILE)
    model = next((m for job in reversed(PHASES) if (m := model_in(path / job)) is not None), None)
    run.serving = (model and _try(run, model, _served)) or run.serving
    run.results = _try(run, path / "metrics.json", lambda p: Results.from_json(_mapping(p), str(p)))
    found, chosen = _written(path, "elastic/shapes.json"), _written(path, "elastic/members.json")
    seen = [p.name for p in (found, chosen) if p.is_file()]
    if run.parent is not None:
        run.shapes = _shapes(run, found, chosen, run.parent)
    elif seen:
        run.notes.append(f"{' and '.join(seen)} left out: without a ranking or a family the parent's shape is unknown")
    if not (run.phases or run.parent or run.results):
        why = f" ({'; '.join(run.notes)})" if run.notes else ""
        raise ElasticError(
            f"run: {path} holds nothing that a run writes: "
            f"no {METRICS}, elastic/ranking, family/{FILE} or metrics.json{why}"
        )
    return run


def number(value: Any) -> float | None:
    """`value` as a float that a run may have measured, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not abs(value) <= LARGEST:  # nor is NaN, nor an integer above every float
        return None
    return float(value) if abs(value) >= 1 / LARGEST else 0.0


def _written(path: Path, name: str, jobs: Iterable[str] = _SHAPING) -> Path:
    """Where the first of a run's jobs wrote a file: in its folder or, on Megatron-Bridge, beside its checkpoints."""
    places = [path / job / beside / name for job in jobs for beside in ("", "checkpoints")]
    return next((place for place in places if place.exists()), places[0])


def _family(path: Path) -> Family:
    family = Family.load(path)
    few(family.members, f"{path / FILE}: members")
    return family


def _served(model: Path) -> MemorySpec:
    own = model / CONFIG
    return served_as(_mapping(own) if own.exists() else read_shapes(model).config)


def _mapping(path: Path) -> Mapping[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise ElasticError(f"{path}: not a JSON object")
    return data


def _try(run: RunRecord, path: Path, read: Callable[[Path], T], needs: str = "") -> T | None:
    """Read one part; None when it is absent, None and a note when it is damaged."""
    if not (path / needs).exists():
        return None
    try:
        return read(path)
    except ElasticError as exc:
        line = str(exc) if str(path) in str(exc) else f"{path}: {exc}"
        run.notes.append(f"left out: {line}".replace(f"{run.path}/", ""))
        return None


def _shapes(run: RunRecord, found: Path, chosen: Path, parent: Parent) -> ShapeHistory:
    def read(path: Path) -> tuple[dict[str, Subnet], Mapping[str, Any]]:
        data = _mapping(path)
        members, report = data.get("members"), data.get("report", {})
        if not isinstance(members, dict) or not isinstance(report, dict):
            raise ElasticError(f'{path}: not {{"members": {{name: subnet}}, "report": …}}')
        few(members, f"{path}: members")
        return {n: Subnet.from_json(s, parent, f"{path}: {n}") for n, s in members.items()}, report

    first, how = _try(run, found, read) or ({}, {})
    frozen, report = _try(run, chosen, read) or ({}, {})
    candidates = _try(run, found, lambda path: _candidates(path, how, parent)) if how else None
    step = number(report.get("step"))
    return ShapeHistory(
        first=first,
        candidates=candidates or {},
        frozen=frozen,
        source=str(how.get("source", "search"))[:40],
        step=None if step is None else int(step),
    )


def _candidates(path: Path, report: Mapping[str, Any], parent: Parent) -> dict[str, list[tuple[Subnet, float | None]]]:
    """What a search kept of every budget, and its losses."""
    losses, kept = (report.get(key, {}) for key in ("candidate_losses", "candidates"))
    out: dict[str, list[tuple[Subnet, float | None]]] = {}
    if not isinstance(kept, dict) or not isinstance(losses, dict):
        raise ElasticError(f'{path}: report: not {{"candidates": {{budget: [subnet]}}, "candidate_losses": …}}')
    few(kept, f"{path}: candidates")
    for name, own in kept.items():
        known = losses.get(name)
        if not isinstance(own, list) or len(own) > MOST_CANDIDATES:
            raise bad(f"{path}: candidates of {name}", own, f"a list of at most {MOST_CANDIDATES}")
        each = known if isinstance(known, list) and len(known) == len(own) else [None] * len(own)
        subnets = [Subnet.from_json(s, parent, f"{path}: {name}") for s in own]
        out[name] = [(s, x if (x := number(loss)) and x > 0 else None) for s, loss in zip(subnets, each, strict=True)]
    return out


def _phases(run: RunRecord) -> tuple[Phase, ...]:
    out: list[Phase] = []
    start = 0
    for name, label in PHASES.items():
        history = read_history(_written(run.path, METRICS, [name]))
        run.notes += [f"left out: {what}" for what in history.left_out]
        steps = tuple(line for line in history.lines if line["kind"] == "step")
        heldout = tuple(line for line in history.lines if line["kind"] == "heldout")
        if history.lines:
            out.append(Phase(name, label, steps, heldout, start))
            start += out[-1].tokens
    return tuple(out)
