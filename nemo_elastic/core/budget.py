# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Budgets and axis choices: the two parts of the `elastic:` block that are held against a parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nemo_elastic.core.cost import MemorySpec, active_parameters, memory, parameters
from nemo_elastic.core.family import Parent, known_fields
from nemo_elastic.core.kinds.registry import DEPTH, per_layer_axes, striped_axes
from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer, number, parse_float, parse_size

#: fields of a budget of which it has at most one
TARGETS = ("params", "active_params", "ratio", "memory")


@dataclass(frozen=True)
class Budget:
    """One member to train: its name and at most one target. Without a target it is the parent itself.

    Attributes:
        name: name of the member, used in sampling, files and reports.
        params: number of parameters.
        active_params: number of parameters that one token meets: those of the experts that it is sent to, and all that
            are no experts'.
        ratio: share of the parent's parameters, between 0 and 1.
        memory: {size: 18GiB, batch, length, weights, cache, state}: bytes in service, see `cost.memory`.
    """

    name: str
    params: float | None = None
    active_params: float | None = None
    ratio: float | None = None
    memory: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if (
            not isinstance(self.name, str)
            or not self.name
            or not self.name.replace(".", "").replace("-", "").isalnum()
            or len(self.name) > 100  # it becomes part of file names
        ):
            raise bad("elastic.budgets.name", self.name, "letters, digits, dots and dashes, at most 100")
        where = f"elastic.budgets[{self.name}]"
        given = [f for f in TARGETS if getattr(self, f) is not None]
        if len(given) > 1:
            raise bad(where, " and ".join(given), "one of params, active_params, ratio and memory")
        for name in ("params", "active_params"):
            value = getattr(self, name)
            if isinstance(value, str):  # YAML 1.1 reads 8.9e9 as text
                object.__setattr__(self, name, parse_float(value))
            if value is not None:
                number(f"{where}.{name}", getattr(self, name), 1, 1e15, "a number of parameters, at least 1")
        if self.ratio is not None:
            number(f"{where}.ratio", self.ratio, 1e-6, 1, "a share of the parent's parameters in (0, 1]")
        if self.memory is not None:
            if not isinstance(self.memory, Mapping) or "size" not in self.memory:
                raise bad(f"{where}.memory", self.memory, "a mapping with size, e.g. {size: 18GiB, batch: 1}")
            parse_size(f"{where}.memory.size", self.memory["size"])
            self.memory_spec()

    @property
    def is_parent(self) -> bool:
        return all(getattr(self, name) is None for name in TARGETS)

    def to_json(self) -> dict[str, Any] | None:
        """What it limits, without its name; None for the parent's."""
        out = {k: v for k in TARGETS if (v := getattr(self, k)) is not None}
        if "memory" in out:
            out["memory"] = dict(out["memory"])
        return out or None

    def memory_spec(self) -> MemorySpec:
        rest = {k: v for k, v in (self.memory or {}).items() if k != "size"}
        return MemorySpec(**known_fields(MemorySpec, rest, f"elastic.budgets[{self.name}].memory"))

    def cost(self, parent: Parent, member: Any) -> Any:
        """The quantity this budget limits, of a `Subnet` or an `Expected` member: parameters or bytes."""
        if self.memory is not None:
            return memory(parent, member, self.memory_spec())
        if self.active_params is not None:
            return active_parameters(parent, member)
        return parameters(parent, member)

    def target(self, parent: Parent) -> float:
        """The limit on `cost` for this parent.

        Raises:
            ElasticError: the target is above the parent.
        """
        whole = self.cost(parent, parent.full)
        if self.is_parent:
            return whole
        where, limit = f"elastic.budgets[{self.name}]", whole
        if self.params is not None:
            where, limit = f"{where}.params", float(self.params)
        elif self.active_params is not None:
            where, limit = f"{where}.active_params", float(self.active_params)
        elif self.ratio is not None:
            return self.ratio * whole
        elif self.memory is not None:
            where, limit = f"{where}.memory.size", parse_size(where, self.memory["size"])
        if limit > whole:
            raise bad(where, limit, f"at most the parent's {whole:.0f}")
        return limit


@dataclass(frozen=True)
class AxisConfig:
    """Choices of one axis: absolute widths, descending, the parent's first.

    Attributes:
        choices: widths a member may have; for depth the number of layers it keeps. For attention_heads with kv_heads
            among the axes: those of a layer that keeps all kv_heads; one that keeps half of them has half as many.
        per_layer: each layer may choose its own (heterogeneous members); hidden and depth are one for the model. Such
            members need `trust_remote_code` in transformers and vLLM, and have no NeMo checkpoint.
        stripes: FFN, kv_heads and axes of experts only: blocks of the axis. Any tensor-parallel size that divides it
            keeps equal shares; for experts any expert-parallel size, for expert_ffn any expert-tensor-parallel one. 8
            if not given (1 of expert_ffn: an expert is whole on its rank), or as many fewer as divide every choice.
        keep_attention: Depth only: attention layers that every member keeps, the most important ones; 1 if not given.
            Without any, transformers cannot use its cache, llama.cpp cannot load the member, and recall of a long
            context rests on the Mamba state alone; 0 allows it.
    """

    choices: tuple[int, ...]
    per_layer: bool = False
    stripes: int | None = None
    keep_attention: int | None = None

    @property
    def kept_attention(self) -> int:
        """Attention layers that every member keeps."""
        return 1 if self.keep_attention is None else self.keep_attention

    def check_attention(self, parent: Parent) -> None:
        """Raise where a member cannot keep as many attention layers as the axis says."""
        has, least = len(parent.recalling), self.choices[-1]
        if self.keep_attention is not None and self.keep_attention > min(has, least):
            allowed = f"at most {min(has, least)}: the parent has {has}, the smallest depth is {least}"
            raise bad("elastic.axes.depth.keep_attention", self.keep_attention, allowed)

    @classmethod
    def read(cls, name: str, data: Any) -> AxisConfig:
        where = f"elastic.axes.{name}"
        if isinstance(data, AxisConfig):
            data = {k: v for k, v in asdict(data).items() if v is not None}
        raw: dict[str, Any] = {"choices": data} if isinstance(data, (list, tuple)) else known_fields(cls, data, where)
        choices: Any = raw["choices"]
        if not isinstance(choices, (list, tuple)) or not choices:
            raise bad(f"{where}.choices", choices, "a list of widths in descending order")
        choices = [integer(f"{where}.choices", c, 1, "positive integers") for c in choices]
        if list(choices) != sorted(set(choices), reverse=True):
            raise bad(f"{where}.choices", list(choices), "descending widths, each once")
        per_layer, stripes = raw.get("per_layer", False), raw.get("stripes")
        if not isinstance(per_layer, bool):
            raise bad(f"{where}.per_layer", per_layer, "true or false")
        if per_layer and name not in per_layer_axes():
            raise bad(f"{where}.per_layer", per_layer, "false: this axis has one choice for the whole model")
        if stripes is not None:
            if name not in striped_axes():
                raise bad(f"{where}.stripes", stripes, f"only {', '.join(striped_axes())} have stripes")
            stripes = integer(f"{where}.stripes", stripes, 1, "a positive integer")
        kept = raw.get("keep_attention")
        if kept is not None:
            if name != DEPTH:
                raise bad(f"{where}.keep_attention", kept, "only depth drops layers")
            kept = integer(f"{where}.keep_attention", kept, 0, "a number of layers, 0 or more")
        return cls(tuple(choices), per_layer, stripes, kept)


def inclusion(weights: Sequence[float], count: int) -> list[float]:
    """Probability of each budget to be among the `count` different ones that a micro-batch trains.

    In proportion to the weights where it can be. A budget that would exceed 1 is in every micro-batch, and the others
    share what is left.

    Args:
        weights: sampling weights that add up to 1.
        count: at most the number of positive weights.
    """
    certain: set[int] = set()
    while True:
        rest = 1.0 - sum(weights[i] for i in certain)
        factor = (count - len(certain)) / rest if count > len(certain) else 0.0
        shares = [1.0 if i in certain else factor * w for i, w in enumerate(weights)]
        over = {i for i, p in enumerate(shares) if p > 1 - 1e-9} - certain
        if not over:
            return shares
        certain |= over
