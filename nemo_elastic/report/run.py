# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a run, as the demo, `nemo-elastic train` or a recipe writes it. Every part may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.folders import model_in, read_shapes
from nemo_elastic.history import METRICS, read_history
from nemo_elastic.io.fields import TEXT, Between, check_version, known_fields, read
from nemo_elastic.io.read import read_json
from nemo_elastic.ranking import Ranking
from nemo_elastic.slicing.card import served_as
from nemo_elastic.verdicts import wilson

#: folder of a job -> label of its phase; the last is a training by itself
PHASES = {"parent": "parent", "stage1": "stage 1", "stage2": "stage 2", "stage3": "stage 3", ".": "training"}
#: folders of jobs that rank a parent and find shapes
SHAPING = ("stage1", "rank", ".")
VERSION = 1
#: larger losses are not drawn
_LARGEST = 1e30

_Count = Annotated[int, Between(0)]
T = TypeVar("T")


@dataclass(frozen=True)
class Answers:
    """Answers to held-out problems: right ones, all, and right ones of always giving a task's most frequent answer."""

    correct: _Count
    total: Annotated[int, Between(1)]
    guessed: _Count = 0

    def __post_init__(self) -> None:
        if max(self.correct, self.guessed) > self.total:
            raise ElasticError(f"{max(self.correct, self.guessed)} right answers of {self.total}")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % around the share of right answers."""
        return wilson(self.correct, self.total)


@dataclass(frozen=True)
class MemberResult:
    """A row of `metrics.json`. Losses are held-out nats per token; None if not measured.

    Attributes:
        untrained_loss: of the same shape cut from the sorted parent; unsorted_loss: from the parent as stored.
        recovered: share of the gap between the untrained cut and the parent that training closed.
    """

    name: Annotated[str, TEXT]
    parameters: float | None = None
    ratio: float | None = None
    loss: float | None = None
    perplexity: float | None = None
    untrained_loss: float | None = None
    unsorted_loss: float | None = None
    recovered: float | None = None
    hidden: float | None = None
    layers: float | None = None
    pattern: str | None = None
    answers: Answers | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "untrained_loss", "unsorted_loss"):
            object.__setattr__(self, name, _finite(getattr(self, name)))


@dataclass(frozen=True)
class Target:
    """A figure that a run was measured against."""

    found: float
    met: bool
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Results:
    """`metrics.json`: the figures at the end of a run. The parent's row is first, then members from the largest."""

    version: int
    members: tuple[MemberResult, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    bigram_loss: float | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)

    @property
    def before(self) -> MemberResult | None:
        """The parent before elastic training: the first row, where a member of its size follows."""
        first, second = (*self.members, None, None)[:2]
        same = first and second and first.parameters is not None and first.parameters == second.parameters
        return first if same else None


@dataclass(frozen=True)
class _Shapes:
    """`shapes.json` and `members.json`."""

    members: Mapping[str, Any]
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """Their `report`."""

    step: int | None = None


@dataclass(frozen=True)
class Phase:
    """A phase of training.

    Attributes:
        name: of its folder; label: for people.
        steps, heldout: lines of these kinds in `metrics.jsonl`, in order.
    """

    name: str
    label: str
    steps: tuple[Mapping[str, Any], ...]
    heldout: tuple[Mapping[str, Any], ...]

    @cached_property
    def tokens(self) -> int:
        """Tokens that the phase trained on."""
        return int(max((line["tokens"] for line in (*self.steps, *self.heldout)), default=0))

    def curve(self, name: str, measure: str) -> list[tuple[int, float]]:
        """Tokens and a measure of a model, `losses` or `kl`, at each validation."""
        known = [(line["tokens"], _finite(line.get(measure, {}).get(name))) for line in self.heldout]
        return [(tokens, value) for tokens, value in known if value is not None]


@dataclass
class Run:
    """The parts of a run; None or empty for those that its folder does not have.

    Attributes:
        found: budget -> first shape.
        frozen: budget -> final shape; frozen_at: step.
        serving: settings for members' memory, in the family's dtype as in `nemo-elastic inspect`.
        notes: lines of `metrics.jsonl` that were damaged when a training was killed.
    """

    path: Path
    phases: tuple[Phase, ...] = ()
    ranking: Ranking | None = None
    family: Family | None = None
    results: Results | None = None
    found: Mapping[str, Subnet] = field(default_factory=dict)
    frozen: Mapping[str, Subnet] = field(default_factory=dict)
    frozen_at: int | None = None
    serving: MemorySpec = field(default_factory=MemorySpec)
    notes: list[str] = field(default_factory=list)

    @property
    def parent(self) -> Parent | None:
        known = self.family or self.ranking
        return known.parent if known else None

    @property
    def subnets(self) -> dict[str, Subnet]:
        """Members by name from the largest, in their last known shapes."""
        return {m.name: m.subnet for m in self.family} if self.family else dict(self.frozen or self.found)

    @cached_property
    def names(self) -> list[str]:
        """All models of the page: the parent before elastic training, then members from the largest."""
        before = self.results.before if self.results else None
        measured = [m.name for m in self.results.members] if self.results else []
        seen = [name for phase in self.phases if phase.name != "parent" for x in phase.heldout for name in x["losses"]]
        first = [before.name] if before else []
        return list(dict.fromkeys([*first, *self.subnets, *measured, *seen]))

    def divergence(self, name: str) -> float | None:
        """Divergence of a member from the parent at the last validation, where the curves of the report end."""
        ends = [curve[-1][1] for phase in self.phases if (curve := phase.curve(name, "kl"))]
        return ends[-1] if ends else None

    def place(self, name: str) -> int | None:
        """Place of a member from the largest; None for the parent before elastic training."""
        before = self.results.before if self.results else None
        members = [n for n in self.names if before is None or n != before.name]
        return members.index(name) if name in members else None

    def result(self, name: str) -> MemberResult | None:
        return next((m for m in self.results.members if m.name == name), None) if self.results else None


def load_run(path: Path | str) -> Run:
    """Read the folder of a run.

    Raises:
        ElasticError: no folder, a folder without any part of a run, or a damaged part.
    """
    path = Path(path)
    if not path.is_dir():
        raise bad("run", str(path), "a folder that a run wrote, e.g. runs/demo")
    run = Run(path)
    run.phases = tuple(_phases(run))
    if (ranking := _written(path, "elastic/ranking")).exists():
        run.ranking = Ranking.load(ranking)
    if (path / "family" / FILE).exists():
        run.family = Family.load(path / "family")
    model = next((m for job in reversed(PHASES) if (m := model_in(path / job)) is not None), None)
    if model is not None:
        config_path = model / "config.json"
        run.serving = served_as(read_json(config_path) if config_path.exists() else read_shapes(model).config)
    if (metrics := path / "metrics.json").exists():
        with inside(metrics):
            content = read_json(metrics)
            check_version(content, VERSION)
            run.results = _results(content)
    _read_shapes(run)
    if not (run.phases or run.parent or run.results):
        parts = f"{METRICS}, elastic/ranking, family/{FILE} or metrics.json"
        raise ElasticError(f"run: {path} is not the folder of a run: it has no {parts}")
    return run


def _finite(value: Any) -> float | None:
    """A loss; None for one that was not finite, or may as well have been."""
    return float(value) if isinstance(value, (int, float)) and abs(value) <= _LARGEST else None


def _written(path: Path, name: str, jobs: Iterable[str] = SHAPING) -> Path:
    """The file of the first job that wrote one: in its folder or, on Megatron-Bridge, next to its checkpoints."""
    places = [path / job / beside / name for job in jobs for beside in ("", "checkpoints")]
    return next((place for place in places if place.exists()), places[0])


def _phases(run: Run) -> Iterable[Phase]:
    for name, label in PHASES.items():
        path = _written(run.path, METRICS, [name])
        history = read_history(path)
        run.notes += history.left_out
        steps = tuple(line for line in history.lines if line["kind"] == "step")
        heldout = tuple(line for line in history.lines if line["kind"] == "heldout")
        if history.lines:
            yield Phase(name, label, steps, heldout)


def _known(cls: type[T], data: Any, field: str) -> T:
    """A dataclass from a mapping that may have more keys than fields."""
    assert is_dataclass(cls)
    if isinstance(data, Mapping):
        data = {f.name: data[f.name] for f in fields(cls) if f.name in data}
    return read(cls, known_fields(cls, data, field), field)


def _results(content: Mapping[str, Any]) -> Results:
    rows = content.get("members", [])
    if not isinstance(rows, list):
        raise bad("members", rows, "a list")
    members = []
    for i, row in enumerate(rows):
        if isinstance(row, Mapping) and row.get("answers") is not None:
            row = {**row, "answers": _known(Answers, row["answers"], f"members[{i}].answers")}
        members.append(_known(MemberResult, row, f"members[{i}]"))
    return _known(Results, {**content, "members": members}, "")


def _read_shapes(run: Run) -> None:
    """First and final shapes. Without a parent's shape they cannot be read."""
    found, frozen = _written(run.path, "elastic/shapes.json"), _written(run.path, "elastic/members.json")
    parent = run.parent
    if parent is None:
        return
    for path in (path for path in (found, frozen) if path.exists()):
        with inside(path):
            file = _known(_Shapes, read_json(path), "")
            report = _known(_Found, file.report, "report")
            members = {n: Subnet.from_json(s, parent, n) for n, s in file.members.items()}
            if path == frozen:
                run.frozen, run.frozen_at = members, report.step
                continue
            run.found = members
