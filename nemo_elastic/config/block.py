# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The `elastic:` block: dataclasses with JSON-only values.

Every error names the field, the value and what is allowed. `ElasticConfig.from_dict` reads a block, `resolve_axes` and
`Budget.target` hold it against a parent. The dataclasses are the only source of defaults and of the docs' reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from nemo_elastic.config.sections import (
    DataConfig,
    DistillConfig,
    ImportanceConfig,
    NonfiniteConfig,
    RouterConfig,
    SearchConfig,
)
from nemo_elastic.core.budget import AxisConfig, Budget, check_names
from nemo_elastic.core.family import OWN_WIDTH, PARENT_WIDTH, Parent
from nemo_elastic.core.kinds.registry import DEPTH, all_axes, layer_axes, striped_axes
from nemo_elastic.core.manifest import FILE
from nemo_elastic.core.precision import check_blocks
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.fields import (
    PATH,
    Between,
    Length,
    Value,
    as_json,
    check,
    fitting,
    known_fields,
    known_names,
    of_path,
    read,
    schema_of,
)
from nemo_elastic.io.read import read_json, read_yaml
from nemo_elastic.io.write import absolute_if_there

__all__ = ["EVEN", "ROUTER", "SEARCH", "WAYS", "ElasticConfig", "json_schema"]

#: ways to shapes; a file is another
WAYS = SEARCH, ROUTER, EVEN = "search", "router", "even"
#: a way of before, and fields that only older blocks have
_HALVING, _REMOVED = "halving", ("budgets_per_batch", "halving")


def _axes(given: Any, field: str) -> dict[str, AxisConfig]:
    known = known_names(all_axes(), given, field)
    if not known:
        raise bad(field, known, f"at least one of {', '.join(all_axes())} with its choices")
    return {name: AxisConfig.read(name, axis, f"{field}.{name}") for name, axis in known.items()}


def _axes_schema() -> dict[str, Any]:
    axes = {axis: AxisConfig.schema(axis) for axis in all_axes()}
    return {"type": "object", "properties": axes, "additionalProperties": False, "minProperties": 1}


_BUDGETS = "a list such as [{name: full}, {name: half, ratio: 0.5}]"
_AXES = Value(_axes, _axes_schema)
_SHAPES = fitting(
    lambda shapes: isinstance(shapes, str) and (shapes in WAYS or shapes.endswith(".json")),
    f"{', '.join(WAYS)}, or a path to a .json file",
    {"anyOf": [{"enum": list(WAYS)}, {"type": "string", "pattern": r"\.json$"}]},
    of_path,
)
_Weight = Annotated[float, Between(0, 1e9, "a weight of at least 0")]


@dataclass(frozen=True)
class ElasticConfig:
    """The whole block. See the classes of its sections.

    Attributes:
        budgets: members from the largest to the smallest; the parent is always one of them.
        axes: axis name -> choices; an absent axis is rigid.
        ranking: folder of a ranking; null ranks at the start.
        importance: how to rank where `ranking` is null.
        shapes: how members get their shapes. search: those of the lowest untrained loss. router: it learns them
            (Nemotron Elastic). even: the most even cuts that meet the budgets. Or a file
            `….json`, as a run writes it: {"members": {name: subnet}}. With the `elastic.json` of a family the weights
            are in its order already, and nothing ranks or sorts them.
        search: of `shapes: search`.
        router: of `shapes: router`.
        distill: the loss.
        data: how rows of several documents are read.
        sampling: member name -> weight of being sampled for a micro-batch; equal when empty.
        nonfinite: what to do about NaN and infinity.
        seed: seeds the member drawn for each micro-batch, the search, and the router's initialization and noise. The
            order of the data uses the data module's seed.
    """

    budgets: Annotated[tuple[Budget, ...], Length(said=_BUDGETS)]
    axes: Annotated[Mapping[str, AxisConfig], _AXES]
    ranking: Annotated[str, PATH] | None = None
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    shapes: Annotated[str, _SHAPES] = SEARCH
    search: SearchConfig = field(default_factory=SearchConfig)
    router: RouterConfig | None = None
    distill: DistillConfig = field(default_factory=DistillConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sampling: Mapping[str, _Weight] = field(default_factory=dict)
    nonfinite: NonfiniteConfig = field(default_factory=NonfiniteConfig)
    seed: Annotated[int, Between(0, 2**32 - 1, "an integer from 0 to 4294967295")] = 0

    def __post_init__(self) -> None:
        check(self, "elastic")
        self._check_budgets()
        if self.shapes == ROUTER and self.router is None:
            object.__setattr__(self, "router", RouterConfig())
        if self.shapes != ROUTER and self.router is not None:
            raise bad("elastic.shapes", self.shapes, "router: the block has a section `router`")
        names = [b.name for b in self.budgets]
        for name in self.sampling:
            if name not in names:
                raise bad("elastic.sampling", name, f"names of budgets: {', '.join(names)}")
        if self.sampling and not sum(self.sampling.values()) > 0:
            raise bad("elastic.sampling", self.sampling, "at least one positive weight")

    def _check_budgets(self) -> None:
        """Raise for names and an order that budgets cannot have; the parent is put before them where it is missing."""
        names = [b.name for b in self.budgets]
        check_names("elastic.budgets", names)
        parents = [b.name for b in self.budgets if b.is_parent]
        if len(parents) > 1:
            raise bad("elastic.budgets", ", ".join(parents), "one budget without a target, which is the parent")
        if self.budgets and not self.budgets[0].is_parent:
            if parents:
                raise bad("elastic.budgets", names, "the parent first, then from the largest to the smallest")
            object.__setattr__(self, "budgets", (Budget("full"), *self.budgets))
        if len(self.budgets) < 2:
            raise bad("elastic.budgets", names, "at least one budget below the parent, e.g. {name: small, ratio: 0.5}")

    @classmethod
    def from_dict(cls, data: Any) -> ElasticConfig:
        """Read a block (a mapping as YAML or JSON gives it); unknown fields are errors with the nearest name."""
        return read(cls, _current(data), "elastic")

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> ElasticConfig:
        """A block as a checkpoint has it. The members of one by halving are read as those that a search found."""
        return cls.from_dict({**data, "shapes": SEARCH} if data.get("shapes") == _HALVING else data)

    @classmethod
    def of(cls, block: ElasticConfig | Mapping[str, Any] | str | Path) -> ElasticConfig:
        """A block as it is, as JSON values, or in a YAML file."""
        if isinstance(block, ElasticConfig):
            return block
        return cls.load(block) if isinstance(block, (str, Path)) else cls.from_dict(block)

    @classmethod
    def load(cls, path: str | Path) -> ElasticConfig:
        """Read a YAML file that is a block or holds one under `elastic:`."""
        return cls.from_dict(_read_file(path))

    @classmethod
    def with_axes_of(cls, path: str | Path) -> ElasticConfig:
        """A block with a file's axes alone: tables that its budgets name may have to be made yet."""
        data = known_fields(cls, _current(_read_file(path)), "elastic")
        return cls.from_dict({"budgets": [{"name": "half", "ratio": 0.5}], "axes": data.get("axes", {})})

    def to_dict(self) -> dict[str, Any]:
        """JSON-only values that `from_dict` reads back to an equal block."""
        out = as_json(asdict(self))
        out["budgets"] = [{k: v for k, v in b.items() if v is not None} for b in out["budgets"]]
        out["axes"] = {n: {k: v for k, v in a.items() if v is not None} for n, a in out["axes"].items()}
        if self.data == DataConfig():  # blocks of before there was the section say nothing of it
            del out["data"]
        return out

    @property
    def shapes_file(self) -> str | None:
        """Where shapes are given, if they are."""
        return None if self.shapes in WAYS else self.shapes

    @property
    def is_sorted(self) -> bool:
        """Whether shapes are those of a family, in whose order the weights are already: nothing ranks or sorts."""
        return self.ranking is None and Path(self.shapes_file or "").name == FILE

    def with_absolute_paths(self) -> ElasticConfig:
        """The block with the files that it names, those that are there, wherever it is read from."""
        shapes = absolute_if_there(self.shapes_file) or self.shapes
        return replace(self, ranking=absolute_if_there(self.ranking), shapes=shapes)

    @property
    def searches(self) -> bool:
        """Whether candidates are measured untrained."""
        return self.shapes == SEARCH

    def freeze_step(self, steps: int) -> int:
        """First step of a stage 1 of so many in which shapes are fixed."""
        return 0 if self.router is None else self.router.freeze_step(steps)

    def parent_shape(self, parent: Parent, sorts: bool = True) -> Parent:
        """`parent` with the stripes and norms of this block; where it gives no stripes, those of `default_stripes`.

        A whole axis has stripes too: they say which parallel sizes share it equally. A size that families cut only
        where their block lists it becomes an axis of the parent.

        Args:
            parent: without stripes.
            sorts: whether weights are sorted into these stripes. Where they come as they are, one stripe is the
                default: a member keeps the front of each width, as in the families that others publish.
        """
        parent, stripes, sorts = self._opened(parent), {}, sorts and not self.is_sorted
        for axis, size in striped_axes().items():
            if axis in parent.axes:
                axis_config = self.axes.get(axis, AxisConfig((parent.size(axis),)))
                stripes[size] = axis_config.stripes or (default_stripes(axis, axis_config.choices) if sorts else 1)
        return replace(parent, norm=PARENT_WIDTH if sorts else self._given_norm(parent), **stripes)

    def _given_norm(self, parent: Parent) -> str:
        """What the norms of members divide by whose weights come as they are: as their family says."""
        if self.is_sorted and Path(str(self.shapes_file)).exists():
            shape = read_json(str(self.shapes_file)).get("parent", {})
            return shape.get("norm", OWN_WIDTH)
        return parent.norm

    def _opened(self, parent: Parent) -> Parent:
        """`parent` with all axes of this block."""
        closed = (
            size
            for axis, size in striped_axes().items()
            if axis in self.axes and layer_axes()[axis][0].name in parent.types and axis in parent.sizes
        )
        return replace(parent, **{size: 1 for size in closed if not parent.has(size)})

    def resolve_axes(self, parent: Parent) -> dict[str, AxisConfig]:
        """Every axis with its choices for `parent` (rigid axes have the one full choice), all checked.

        Raises:
            ElasticError: a width above the parent, not a multiple of its blocks, or a first choice below the parent.
        """
        out = {}
        parent = self._opened(parent)
        for name, axis in self.axes.items():
            kind = layer_axes()[name][0] if name in layer_axes() else None
            if kind is not None and kind.symbol not in parent.pattern:
                raise bad(f"elastic.axes.{name}", list(axis.choices), f"this parent has no {kind.name} layer")
            if name not in parent.axes:
                raise bad(f"elastic.axes.{name}", list(axis.choices), "this parent has no such width")
        for name in parent.axes:
            full = parent.num_layers if name == DEPTH else parent.axis(name).size
            axis = self.axes.get(name)
            if axis is None:
                out[name] = AxisConfig((full,))
                continue
            for c in axis.choices:
                if name != DEPTH:
                    replace(parent.axis(name), name=f"elastic.axes.{name}").check(c)
                elif c > full:
                    raise bad("elastic.axes.depth", c, f"at most the parent's {full} layers")
            axis.check_attention(parent)
            if axis.choices[0] != full:
                raise bad(f"elastic.axes.{name}", list(axis.choices), f"the first choice must be the parent's {full}")
            out[name] = axis
        return out

    def check_stage(self, stage: Any) -> None:
        """Raise for a stage that there is not, or that does not go with this block."""
        if stage not in (1, 2, 3):
            raise bad("stage", stage, "1, 2 or 3")
        if stage == 1 and self.distill.quantize is not None:
            allowed = "null in stage 1, which ranks and learns shapes at full precision; stages 2 and 3 take it"
            raise bad("elastic.distill.quantize", self.distill.quantize, allowed)

    def check_blocks(
        self, parent: Parent, tensor: tuple[str, int] = ("", 1), expert_tensor: tuple[str, int] = ("", 1)
    ) -> None:
        """Raise for widths and ranks that low precision cannot cut, see `core.precision.check_blocks`.

        Args:
            parent: with the stripes of this block.
            tensor, expert_tensor: names of these kinds of parallelism, and ranks.
        """
        if self.distill.quantize is not None:
            check_blocks(parent, self.choices(parent), self.distill.quantize, tensor, expert_tensor)

    def choices(self, parent: Parent) -> dict[str, tuple[int, ...]]:
        """Widths that members of a parent may have, by axis."""
        return {name: axis.choices for name, axis in self.resolve_axes(parent).items()}

    def targets(self, parent: Parent) -> dict[str, float]:
        """Budget name -> limit on its cost (`Budget.target`); checks that budgets go down.

        Raises:
            ElasticError: budgets out of order or two of the same size.
        """
        out, last, before = {}, (), ""
        for b in self.budgets:
            shares = b.shares(parent)
            if before and shares >= last:
                raise bad(
                    f"elastic.budgets[{b.name}]",
                    f"{_listed(shares)} of the parent",
                    f"below {before!r} ({_listed(last)}): from the largest budget to the smallest",
                )
            out[b.name], last, before = b.target(parent), shares, b.name
        return out

    def weights(self) -> list[float]:
        """Sampling probability of each budget, in order."""
        raw = [float(self.sampling.get(b.name, 0.0)) if self.sampling else 1.0 for b in self.budgets]
        return [w / sum(raw) for w in raw]


def json_schema() -> dict[str, Any]:
    """JSON schema of a YAML file with an `elastic:` key, for editors (`conf/elastic.schema.json`); other keys are the
    recipe's and anything goes.

    A schema sees one value at a time: what holds between values `ElasticConfig` checks.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nemo-elastic",
        "description": "A run file of nemo-elastic, or one with an `elastic:` block and overrides.",
        "type": "object",
        "properties": {"elastic": schema_of(ElasticConfig)},
        "required": ["elastic"],
    }


def _read_file(path: str | Path) -> Any:
    """The elastic block of a YAML file, unchecked: its key `elastic`, or the whole file without that key."""
    try:
        data = read_yaml(path)
    except FileNotFoundError:
        raise bad("config", str(path), "an existing YAML file") from None
    except Exception as e:  # YAML and OmegaConf errors share no base class
        why = (str(e) or type(e).__name__).splitlines()[0]
        raise ElasticError(f"config: {path}: not readable as YAML ({why})") from None
    return data["elastic"] if isinstance(data, dict) and "elastic" in data else data


def _current(data: Any) -> Any:
    """A block without the fields that blocks in checkpoints have from before they were removed."""
    if not isinstance(data, Mapping):
        return data
    if data.get("budgets_per_batch") not in (None, 1):
        raise bad("elastic.budgets_per_batch", data["budgets_per_batch"], "1: a micro-batch trains one member")
    if data.get("shapes", _HALVING if _HALVING in data else SEARCH) == _HALVING:
        raise bad("elastic.shapes", _HALVING, f"{SEARCH}, which replaced it: remove `halving` and `search.keep` too")
    out = {name: value for name, value in data.items() if name not in _REMOVED}
    if isinstance(out.get("search"), Mapping):
        out["search"] = {name: value for name, value in out["search"].items() if name != "keep"}
    if isinstance(out.get("distill"), Mapping) and out["distill"].get("top_k") is None:
        out["distill"] = {name: value for name, value in out["distill"].items() if name != "top_k"}
    return out


def _listed(shares: tuple[float, ...]) -> str:
    """Shares of the parent in words: those that limit anything."""
    return " and ".join(f"{share:.4g}" for share in shares if share < 1) or "1"


def default_stripes(axis: str, choices: tuple[int, ...]) -> int:
    """Stripes of an axis without `stripes` in the block: its record's, or fewer that divide every choice."""
    wanted = layer_axes()[axis][1].stripes
    return next(n for n in range(wanted, 0, -1) if all(c % n == 0 for c in choices))
