# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The `elastic:` block: dataclasses with JSON-only values.

Every error names the field, the value and what is allowed. `ElasticConfig.from_dict` reads a block, `resolve_axes` and
`Budget.target` hold it against a parent. The dataclasses are the only source of defaults and of the docs' reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .budget import AxisConfig, Budget
from .checks import integer, keep_plain, number
from .errors import ElasticError, bad
from .family import Parent, known_fields, known_names
from .files import read_yaml
from .kinds.mlp import FFN
from .kinds.registry import DEPTH, all_axes, layer_axes

GATES = ("soft", "hard")
DISTILL_MODES = ("frozen", "frozen_ce", "ce", "trainable")
#: modes with a frozen teacher
FROZEN = ("frozen", "frozen_ce")
NONFINITE = ("stop", "skip")
TEACHER_PRECISIONS = ("bf16", "fp8", "int8")


@dataclass(frozen=True)
class ImportanceConfig:
    """How channels, heads and layers are ranked where no ranking is given.

    Attributes:
        samples: training sequences that are looked at, the first of the run's data, by all data-parallel ranks
            together.
        ffn: activation (what enters the second linear) or first (the first linear's output).
        aggregation: l2_mean (root of the sum over sequences of the squared mean) or mean.
        depth: mse (iterative: drop the least important layer, recompute) or cosine (one pass).
        depth_samples: of those, the sequences on which dropped layers are measured, by all data-parallel ranks
            together; rounded up, so that each rank measures as many.
    """

    samples: int = 1024
    ffn: str = "activation"
    aggregation: str = "l2_mean"
    depth: str = "mse"
    depth_samples: int = 8

    def __post_init__(self) -> None:
        keep_plain(self)
        integer("elastic.importance.samples", self.samples, 1, "at least 1")
        integer("elastic.importance.depth_samples", self.depth_samples, 1, "at least 1")
        for name, allowed in (("ffn", ("activation", "first")), ("aggregation", ("l2_mean", "mean")),
                              ("depth", ("mse", "cosine"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise bad(f"elastic.importance.{name}", getattr(self, name), f"one of {', '.join(allowed)}")


@dataclass(frozen=True)
class SearchConfig:
    """Search over untrained losses that starts the router, or stands alone.

    Attributes:
        candidates: members tried in all.
        tokens: training tokens on which each candidate is measured, untrained: the mean divergence (KL) of its logits
            from the whole parent's. They are the first of the run's data, in whole sequences of its length, of all
            data-parallel ranks together, of which each measures at least one.
    """

    candidates: int = 256
    tokens: int = 65536

    def __post_init__(self) -> None:
        keep_plain(self)
        integer("elastic.search.candidates", self.candidates, 1, "at least 1")
        integer("elastic.search.tokens", self.tokens, 1, "at least 1")


@dataclass(frozen=True)
class RouterConfig:
    """The trained router. Nemotron Elastic's are its MLPs, Gumbel-softmax, tau, scale and the budget loss; soft masks
    (gate: soft), prior, soft_share, below, deadzone and freeze_at are ours.

    Attributes:
        hidden: width of each axis' MLP.
        lr: its own learning rate. At 1e-2 nearly all is decided within 200 steps; the recipes of large parents, which
            have thousands, take 3e-3 (docs: method, when it decides).
        tau: Gumbel-softmax temperature at start and at `freeze_at`, linear between.
        scale: factor on the logits at start and at `freeze_at`, linear between.
        init_std: standard deviation of its initial weights.
        prior: logit that the shapes found by the search start with; 0 forgets them. A small one lets the noise of the
            first steps run shapes far from any budget.
        loss_weight: weight of the budget loss |cost/target - 1|: nats for twice the cost. Choices leave the budget
            where members lose more than that.
        below: share of the budget loss that a cost below the target pays: 1 pulls up as hard as down, as published; 0
            only holds the cost down, and what fits is added when shapes are frozen.
        deadzone: relative miss below which the budget loss is zero.
        gate: soft (expected masks) or hard (straight-through masks).
        soft_share: share of the micro-batches before `freeze_at` that run under the router's masks, at full size; the
            others train its present choices as slices, at their price. 1 is the published method; a small share gave
            members as good (docs: studies) at a tenth above the price of slices alone.
        freeze_at: fraction of stage 1 after which shapes are projected and frozen and every step is sliced.
    """

    hidden: int = 256
    lr: float = 1e-2
    tau: tuple[float, float] = (1.0, 0.05)
    scale: tuple[float, float] = (1.0, 10.0)
    init_std: float = 0.1
    prior: float = 4.0
    loss_weight: float = 1.0
    below: float = 1.0
    deadzone: float = 0.0
    gate: str = "soft"
    soft_share: float = 0.15
    freeze_at: float = 0.67

    def __post_init__(self) -> None:
        keep_plain(self)
        integer("elastic.router.hidden", self.hidden, 1, "at least 1")
        number("elastic.router.lr", self.lr, 0, 10, "a learning rate from 0 to 10")
        for name in ("tau", "scale"):
            pair = getattr(self, name)
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise bad(f"elastic.router.{name}", pair, "two numbers: at the start and at freeze_at")
            for v in pair:
                number(f"elastic.router.{name}", v, 1e-6, 1e6, "positive numbers")
            object.__setattr__(self, name, tuple(pair))
        number("elastic.router.init_std", self.init_std, 0, 10, "from 0 to 10")
        number("elastic.router.prior", self.prior, 0, 100, "from 0 to 100")
        number("elastic.router.loss_weight", self.loss_weight, 0, 1e6, "at least 0")
        number("elastic.router.below", self.below, 0, 1, "from 0 to 1")
        number("elastic.router.deadzone", self.deadzone, 0, 1, "from 0 to 1")
        if self.gate not in GATES:
            raise bad("elastic.router.gate", self.gate, f"one of {', '.join(GATES)}")
        number("elastic.router.soft_share", self.soft_share, 0.01, 1, "a share of the micro-batches from 0.01 to 1")
        number("elastic.router.freeze_at", self.freeze_at, 0, 1, "a fraction of stage 1 from 0 to 1")

    def freeze_step(self, stage_steps: int) -> int:
        """First step of a stage 1 of `stage_steps` that runs on frozen shapes."""
        return round(self.freeze_at * stage_steps)


@dataclass(frozen=True)
class DistillConfig:
    """Training loss.

    Attributes:
        mode: frozen (KL from the frozen parent), frozen_ce (that + alpha x cross-entropy), ce (cross-entropy alone),
            trainable (the full member learns by cross-entropy and teaches the others).
        temperature: of both distributions; the loss has no T^2 factor.
        alpha: weight of the cross-entropy in frozen_ce.
        top_k: the teacher speaks for its k likeliest tokens only, all others count as one; null for the whole
            vocabulary.
        chunk_tokens: tokens whose logits are held at a time; does not change the loss.
        teacher_precision: weights of the frozen teacher: null keeps the model's own precision, bf16 holds and runs all
            of it in bf16, fp8 (E4M3) and int8 hold the weights of its linear layers in one byte, with a scale per row
            (ModelOpt), made whole layer by layer as they run, embedding and head as they are.
    """

    mode: str = "frozen"
    temperature: float = 1.0
    alpha: float = 0.5
    top_k: int | None = None
    chunk_tokens: int = 512
    teacher_precision: str | None = None

    def __post_init__(self) -> None:
        keep_plain(self)
        if self.mode not in DISTILL_MODES:
            raise bad("elastic.distill.mode", self.mode, f"one of {', '.join(DISTILL_MODES)}")
        precision = self.teacher_precision
        if precision is not None and precision not in TEACHER_PRECISIONS:
            allowed = f"null or one of {', '.join(TEACHER_PRECISIONS)}"
            raise bad("elastic.distill.teacher_precision", precision, allowed)
        if precision is not None and self.mode not in FROZEN:
            allowed = f"null: distill.mode {self.mode} has no frozen teacher"
            raise bad("elastic.distill.teacher_precision", precision, allowed)
        number("elastic.distill.temperature", self.temperature, 1e-3, 1e3, "a positive number")
        number("elastic.distill.alpha", self.alpha, 0, 1e3, "at least 0")
        if self.top_k is not None:
            integer("elastic.distill.top_k", self.top_k, 1, "at least 1, or null for the whole vocabulary")
        integer("elastic.distill.chunk_tokens", self.chunk_tokens, 1, "at least 1")


@dataclass(frozen=True)
class NonfiniteConfig:
    """A step whose loss or gradients are NaN or infinite.

    Attributes:
        action: stop (one line names step, budget and layer; no weight is changed and nothing saved) or skip (the same
            line; weights and optimizer state stay as they are, the schedule goes on).
        limit: skipped steps in a row with which the run stops all the same.
    """

    action: str = "stop"
    limit: int = 8

    def __post_init__(self) -> None:
        keep_plain(self)
        if self.action not in NONFINITE:
            raise bad("elastic.nonfinite.action", self.action, f"one of {', '.join(NONFINITE)}")
        integer("elastic.nonfinite.limit", self.limit, 1, "at least 1")


_SECTIONS = {
    "importance": ImportanceConfig,
    "search": SearchConfig,
    "router": RouterConfig,
    "distill": DistillConfig,
    "nonfinite": NonfiniteConfig,
}


@dataclass(frozen=True)
class ElasticConfig:
    """The whole block. See the attributes' own classes.

    Attributes:
        budgets: members from the largest to the smallest; the parent is always one of them.
        axes: axis name -> choices; an absent axis is rigid.
        ranking: folder of a ranking; null ranks at the start.
        importance: how to rank where `ranking` is null.
        search: null skips the search.
        router: null keeps the shapes that the search (or `shapes`) gives.
        shapes: JSON file {member: subnet} with fixed shapes; needs search and router null. With none of the three,
            members are the most even cuts that meet their budgets.
        distill: the loss.
        sampling: member name -> weight of being drawn for a micro-batch; equal when empty.
        budgets_per_batch: different members that each micro-batch trains, one after another, with one forward pass of
            the teacher. The loss is their mean (a member whose `sampling` weight is above one in that many is in every
            micro-batch, with its weight). Steps take longer, memory stays.
        nonfinite: what to do about NaN and infinity.
        seed: of which member each micro-batch trains, of which micro-batches before the freeze run under masks, of the
            search's candidates, and of the router's first weights and noise. The order of the data has the data
            module's.
    """

    budgets: tuple[Budget, ...] = ()
    axes: Mapping[str, AxisConfig] = field(default_factory=dict)
    ranking: str | None = None
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    search: SearchConfig | None = field(default_factory=SearchConfig)
    router: RouterConfig | None = field(default_factory=RouterConfig)
    shapes: str | None = None
    distill: DistillConfig = field(default_factory=DistillConfig)
    sampling: Mapping[str, float] = field(default_factory=dict)
    budgets_per_batch: int = 1
    nonfinite: NonfiniteConfig = field(default_factory=NonfiniteConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        keep_plain(self)
        names = [b.name for b in self.budgets]
        for n in names:
            if names.count(n) > 1:
                raise bad("elastic.budgets", n, "each name once")
        parents = [b.name for b in self.budgets if b.is_parent]
        if len(parents) > 1:
            raise bad("elastic.budgets", ", ".join(parents), "only one budget may have no target: it is the parent")
        if self.budgets and not self.budgets[0].is_parent:
            if parents:
                raise bad("elastic.budgets", names, "the parent first, then from the largest to the smallest")
            object.__setattr__(self, "budgets", (Budget("full"), *self.budgets))
        if len(self.budgets) < 2:
            raise bad("elastic.budgets", names, "at least one budget below the parent, e.g. {name: small, ratio: 0.5}")
        if not self.axes:
            raise bad("elastic.axes", dict(self.axes), f"at least one of {', '.join(all_axes())} with its choices")
        for name in self.axes:
            if name not in all_axes():
                raise bad("elastic.axes", name, f"one of {', '.join(all_axes())}")
        if self.shapes is not None and (self.search or self.router):
            raise bad("elastic.shapes", self.shapes, "fixed shapes need `search: null` and `router: null`")
        for name, w in self.sampling.items():
            if name not in [b.name for b in self.budgets]:
                raise bad("elastic.sampling", name, f"names of budgets: {', '.join(b.name for b in self.budgets)}")
            number(f"elastic.sampling.{name}", w, 0, 1e9, "a weight of at least 0")
        if self.sampling and not sum(self.sampling.values()) > 0:
            raise bad("elastic.sampling", dict(self.sampling), "at least one positive weight")
        drawn = sum(w > 0 for w in self.weights())
        allowed = f"from 1 to {drawn}: that many members have a positive sampling weight"
        integer("elastic.budgets_per_batch", self.budgets_per_batch, 1, allowed, drawn)
        integer("elastic.seed", self.seed, 0, "an integer from 0 to 4294967295", 2**32 - 1)

    @classmethod
    def from_dict(cls, data: Any) -> ElasticConfig:
        """Read a block (a mapping as YAML or JSON gives it); unknown fields are errors with the nearest name."""
        known = known_fields(cls, data, "elastic")
        budgets = known.get("budgets", ())
        if not isinstance(budgets, (list, tuple)):
            raise bad("elastic.budgets", budgets, "a list such as [{name: full}, {name: half, ratio: 0.5}]")
        known["budgets"] = tuple(
            Budget(**known_fields(Budget, b, f"elastic.budgets[{i}]")) for i, b in enumerate(budgets)
        )
        axes = known.get("axes", {})
        if not isinstance(axes, Mapping):
            raise bad("elastic.axes", axes, "a mapping axis -> choices")
        known_names(all_axes(), axes, "elastic.axes")
        known["axes"] = {n: AxisConfig.read(n, a) for n, a in axes.items()}
        for name, section in _SECTIONS.items():
            if known.get(name) is not None:
                known[name] = section(**known_fields(section, known[name], f"elastic.{name}"))
        for name in ("distill", "importance", "nonfinite"):
            if known.get(name, True) is None:
                raise bad(f"elastic.{name}", None, "a mapping; leave it out for the defaults")
        for name in ("ranking", "shapes"):
            if known.get(name) is not None and not isinstance(known[name], (str, Path)):
                raise bad(f"elastic.{name}", known[name], "a path or null")
            known[name] = str(known[name]) if known.get(name) is not None else None
        sampling = known.get("sampling", {})
        if not isinstance(sampling, Mapping):
            raise bad("elastic.sampling", sampling, "a mapping budget name -> weight")
        known["sampling"] = dict(sampling)
        return cls(**known)

    @classmethod
    def load(cls, path: str | Path) -> ElasticConfig:
        """Read a YAML file that is a block or holds one under `elastic:`."""
        try:
            data = read_yaml(path)
        except FileNotFoundError:
            raise bad("config", str(path), "an existing YAML file") from None
        except Exception as e:  # YAML and OmegaConf errors share no base class
            why = (str(e) or type(e).__name__).splitlines()[0]
            raise ElasticError(f"config: {path}: not readable as YAML ({why})") from None
        return cls.from_dict(data["elastic"] if isinstance(data, dict) and "elastic" in data else data)

    def to_dict(self) -> dict[str, Any]:
        """JSON-only values that `from_dict` reads back to an equal block."""
        out = asdict(self)
        out["budgets"] = [{k: v for k, v in b.items() if v is not None} for b in out["budgets"]]
        out["axes"] = {
            n: {"choices": list(a["choices"]), "per_layer": a["per_layer"]}
            | ({"stripes": a["stripes"]} if a["stripes"] else {})
            | ({"keep_attention": a["keep_attention"]} if a["keep_attention"] is not None else {})
            for n, a in out["axes"].items()
        }
        if out["router"]:
            out["router"] |= {k: list(out["router"][k]) for k in ("tau", "scale")}
        return out

    def parent_shape(self, parent: Parent) -> Parent:
        """`parent` with the FFN stripes of this block: 8 unless given, fewer where 8 does not divide every width.

        A whole FFN has stripes too: they say which tensor-parallel sizes share it equally.
        """
        ffn = self.axes.get(FFN, AxisConfig((parent.ffn,)))
        return parent.with_stripes(ffn.stripes if ffn.stripes is not None else default_stripes(ffn.choices))

    def resolve_axes(self, parent: Parent) -> dict[str, AxisConfig]:
        """Every axis with its choices for `parent` (rigid axes have the one full choice), all checked.

        Raises:
            ElasticError: a width above the parent, not a multiple of its blocks, or a first choice below the parent.
        """
        out = {}
        for name in self.axes:
            if name not in parent.axes:
                raise bad(f"elastic.axes.{name}", list(self.axes[name].choices), _no_layer(name))
        for name in parent.axes:
            full = parent.num_layers if name == DEPTH else parent.axis(name).size
            axis = self.axes.get(name)
            if axis is None:
                out[name] = AxisConfig((full,))
                continue
            if name in layer_axes() and layer_axes()[name][0] not in parent.kinds:
                raise bad(f"elastic.axes.{name}", list(axis.choices), _no_layer(name))
            for c in axis.choices:
                if name != DEPTH:
                    prefix = parent.axis(name)
                    type(prefix)(prefix.size, prefix.blocks, f"elastic.axes.{name}").check(c)
                elif c > full:
                    raise bad("elastic.axes.depth", c, f"at most the parent's {full} layers")
            axis.check_attention(parent)
            if axis.choices[0] != full:
                raise bad(f"elastic.axes.{name}", list(axis.choices), f"the first choice must be the parent's {full}")
            out[name] = axis
        return out

    def targets(self, parent: Parent) -> dict[str, float]:
        """Budget name -> limit on its cost; checks that budgets go down.

        Raises:
            ElasticError: budgets out of order or two of the same size.
        """
        out, last, before = {}, 1.0, ""
        for b in self.budgets:
            target = b.target(parent)
            share = target / b.cost(parent, parent.full)
            if before and share >= last:
                raise bad(
                    f"elastic.budgets[{b.name}]",
                    f"{share:.4g} of the parent",
                    f"below {before!r} ({last:.4g}): from the largest budget to the smallest",
                )
            out[b.name], last, before = target, share, b.name
        return out

    def weights(self) -> list[float]:
        """Sampling probability of each budget, in order."""
        raw = [float(self.sampling.get(b.name, 0.0)) if self.sampling else 1.0 for b in self.budgets]
        return [w / sum(raw) for w in raw]


def _no_layer(axis: str) -> str:
    return f"this parent has no {layer_axes()[axis][0].name} layer"


def default_stripes(choices: tuple[int, ...], wanted: int = 8) -> int:
    """The largest number of stripes up to `wanted` that divides every FFN choice."""
    return next(n for n in range(wanted, 0, -1) if all(c % n == 0 for c in choices))
