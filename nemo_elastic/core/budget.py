# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Budgets and axis choices: the parts of the `elastic:` block that a parent's shape is checked against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.registry import DEPTH, axes_with_stripes, per_layer_axes
from nemo_elastic.core.limits import (
    LIMITS,
    ActiveParametersLimit,
    LatencyLimit,
    Limit,
    MemoryLimit,
    ParametersLimit,
    RatioLimit,
)
from nemo_elastic.errors import bad
from nemo_elastic.io.fields import Between, Length, Value, check, fitting, read, schema_of, value_of

_Width = Annotated[int, Between(1, said="positive integers")]
_WIDTHS = value_of(Annotated[tuple[_Width, ...], Length(1, said="a list of widths in descending order")])


def _descending(given: Any, field: str) -> tuple[int, ...]:
    choices = _WIDTHS.read(given, field)
    if list(choices) != sorted(set(choices), reverse=True):
        raise bad(field, list(choices), "descending widths, each once")
    return choices


_CHOICES = Value(_descending, lambda: _WIDTHS.schema() | {"uniqueItems": True})


#: a member's name: it becomes part of file names, so it must not form a path
NAME = fitting(
    lambda name: isinstance(name, str) and len(name) <= 100 and name.replace(".", "").replace("-", "").isalnum(),
    "letters, digits, dots and dashes, at most 100",
    {"type": "string", "maxLength": 100},
)


def check_names(field: str, names: Iterable[str], taken: Iterable[str] = ()) -> None:
    """Raise for an invalid or repeated name; `taken`: names of other members."""
    seen = set(taken)
    for name in names:
        if NAME.read(name, field) in seen:
            raise bad(field, name, f"each name once{', and none that a member has' if taken else ''}")
        seen.add(name)


@dataclass(frozen=True)
class Budget:
    """One member to train: a name and limits that it must all meet. Without limits it is the parent itself.

    Attributes:
        name: name of the member, used in sampling, files and reports.
        params: number of parameters: 8.9e9 or 8.9B.
        active_params: active parameters per token (routed experts plus all other weights): 2.0e9 or 2.0B.
        ratio: share of the parent's parameters, between 0 and 1.
        memory: {size: 18GiB, batch, length, weights, cache, state}: bytes in service, see `cost.memory`.
        latency: {table: h100.json, ms: 12} or {table, ratio: 0.6}: milliseconds on the machine of a table that
            `nemo-elastic profile` wrote. `of` is the phase: decode (each further token of an answer; the default),
            prefill (up to the first) or request (a whole answer). The family stores the table.
    """

    name: Annotated[str, NAME]
    params: Annotated[float, ParametersLimit.given] | None = None
    active_params: Annotated[float, ActiveParametersLimit.given] | None = None
    ratio: Annotated[float, RatioLimit.given] | None = None
    memory: Annotated[Mapping[str, Any], MemoryLimit.given] | None = None
    latency: Annotated[Mapping[str, Any], LatencyLimit.given] | None = None

    def __post_init__(self) -> None:
        check(self, f"elastic.budgets[{NAME.read(self.name, 'elastic.budgets.name')}]")

    def _where(self, field: str) -> str:
        return f"elastic.budgets[{self.name}].{field}"

    @property
    def is_parent(self) -> bool:
        return all(getattr(self, field) is None for field in LIMITS)

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """Every limit of the member; for the parent a ratio of 1."""
        given = ((limit, getattr(self, field)) for field, limit in LIMITS.items())
        set_here = tuple(limit(value, self._where(limit.field)) for limit, value in given if value is not None)
        return set_here or (RatioLimit(1.0, self._where(RatioLimit.field)),)

    def to_json(self) -> dict[str, Any] | None:
        """The limits without the name; None for the parent's budget."""
        out = {k: v for k in LIMITS if (v := getattr(self, k)) is not None}
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in out.items()} or None

    def cost(self, parent: Parent, member: Any) -> Any:
        """The limited cost of a `Subnet`; with several limits the largest used share of one."""
        if len(self.limits) == 1:
            return self.limits[0].cost(parent, member)
        return max(limit.share(parent, member) for limit in self.limits)

    def target(self, parent: Parent) -> float:
        """Upper limit of `cost` for this parent: 1 if there are several limits."""
        targets = [limit.target(parent) for limit in self.limits]
        return targets[0] if len(targets) == 1 else 1.0

    def shares(self, parent: Parent) -> tuple[float, ...]:
        """Limits as shares of the parent's costs, ascending, padded with 1: a key that orders budgets."""
        shares = [limit.share_of(parent) for limit in self.limits]
        return tuple(sorted([*shares, *[1.0] * (len(LIMITS) - len(shares))]))


@dataclass(frozen=True)
class AxisConfig:
    """Choices of one axis: absolute widths, descending, the parent's first.

    Attributes:
        choices: widths a member may have; for depth the number of layers it keeps. For attention_heads with kv_heads
            among the axes: widths for a layer that keeps all kv_heads; a layer that keeps half of them has half.
        per_layer: every layer may have another width (heterogeneous members), except for hidden and depth. These
            members need `trust_remote_code` in transformers and vLLM, and have no NeMo checkpoint.
        stripes: FFN, kv_heads and axes of experts (not top_k) only: blocks of the axis. Any tensor-parallel size that
            divides it keeps equal shares; for experts any expert-parallel size, for expert_ffn any
            expert-tensor-parallel one. 8 if not given (1 of expert_ffn: an expert is whole on its rank), lowered until
            it divides every choice; 1 in `init` without a ranking, for weights that were sorted elsewhere.
        keep_attention: Depth only: attention layers that every member keeps, the most important ones; 1 if not given.
            Without any, transformers cannot use its cache, llama.cpp cannot load the member, and recall of a long
            context rests on the Mamba state alone; 0 allows it.
    """

    choices: Annotated[tuple[int, ...], _CHOICES]
    per_layer: bool = False
    stripes: Annotated[int, Between(1)] | None = None
    keep_attention: Annotated[int, Between(0)] | None = None

    def __post_init__(self) -> None:
        check(self, "elastic.axes")

    @property
    def kept_attention(self) -> int:
        """Attention layers that every member keeps."""
        return 1 if self.keep_attention is None else self.keep_attention

    def check_attention(self, parent: Parent) -> None:
        """Raise where `keep_attention` is more than the parent has or the smallest depth keeps."""
        has, least = len(parent.attention_layers), self.choices[-1]
        if self.keep_attention is not None and self.keep_attention > min(has, least):
            allowed = f"at most {min(has, least)}: the parent has {has}, the smallest depth is {least}"
            raise bad("elastic.axes.depth.keep_attention", self.keep_attention, allowed)

    @classmethod
    def read(cls, name: str, data: Any, field: str) -> AxisConfig:
        """An axis of a block; a list is short for `choices`."""
        axis = read(cls, {"choices": data} if isinstance(data, (list, tuple)) else data, field)
        if axis.per_layer and name not in per_layer_axes():
            raise bad(f"{field}.per_layer", True, "false: this axis has one choice for the whole model")
        if axis.stripes is not None and name not in axes_with_stripes():
            raise bad(f"{field}.stripes", axis.stripes, f"only {', '.join(axes_with_stripes())} have stripes")
        if axis.keep_attention is not None and name != DEPTH:
            raise bad(f"{field}.keep_attention", axis.keep_attention, "only depth drops layers")
        return axis

    @classmethod
    def schema(cls, name: str) -> dict[str, Any]:
        """JSON schema of an axis: a list of choices, or a mapping with the settings that apply to this axis."""
        whole = schema_of(cls)
        fields = whole["properties"]
        if name not in per_layer_axes():
            fields["per_layer"]["const"] = False
        for axes, setting in ((axes_with_stripes(), "stripes"), ((DEPTH,), "keep_attention")):
            if name not in axes:
                del fields[setting]
        return {"anyOf": [_CHOICES.schema(), whole]}
