# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`Ranking`: the orders of every axis of one parent, on disk `ranking.json` beside `ranking.safetensors`.

With how importance was measured. Reading a ranking needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from nemo_elastic.config.sections import AGGREGATIONS, DEPTH_SCORES, EXPERTS, FFN
from nemo_elastic.core.family import Parent, first_difference
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.io.fields import Between, OneOf, check, check_version, read
from nemo_elastic.io.outputs import Output, atomic_dir
from nemo_elastic.io.read import read_bytes, read_json
from nemo_elastic.ranking.orders import check_orders, identity, unmoved

VERSION = 1
JSON, TENSORS = "ranking.json", "ranking.safetensors"
#: two numbers per channel of a parent, a hundred times over: a 12B has 20 MB
_TENSOR_BYTES = 2**31
RANKING = Output(
    "a ranking",
    re.escape(TENSORS),
    JSON,
    frozenset({"version", "digest", "parent", "depth"}),
)
_OrAll = Annotated[int, Between(1, said="at least 1, or null for all")] | None


@dataclass(frozen=True)
class RankOptions:
    """How importance is measured.

    Attributes:
        ffn: neurons by the "activation" that enters the second linear (Minitron), or by the "first" linear's output
            (Nemotron Elastic).
        aggregation: "l2_mean" is sqrt(sum over samples of (mean over tokens of |a|)^2), "mean" the mean over both.
        depth: "mse" drops layers one by one by the change of the logits; "cosine" scores all of them in the pass that
            scores the widths, by 1 - cosine of a layer's input and output.
        depth_samples: sequences on which "mse" is measured, shared among the ranks that see other samples.
        depth_exact: how many drops "mse" measures anew; the layers left keep the order of the last round. None: all.
        head_channels: how many of the best channels score a Mamba head, e.g. the smallest head_dim of the family.
            None: all.
        experts: of an expert's weight times the norm of what it puts out, over the tokens that are sent to it: the
            "mean" (REAP), or "l2", the root of the mean square.
    """

    ffn: Annotated[str, OneOf(FFN)] = "activation"
    aggregation: Annotated[str, OneOf(AGGREGATIONS)] = "l2_mean"
    depth: Annotated[str, OneOf(DEPTH_SCORES)] = "mse"
    depth_samples: Annotated[int, Between(1)] = 8
    depth_exact: _OrAll = None
    head_channels: _OrAll = None
    experts: Annotated[str, OneOf(EXPERTS)] = "mean"

    def __post_init__(self) -> None:
        check(self, "rank")

    def to_json(self) -> dict[str, Any]:
        out = asdict(self)
        if self.experts == EXPERTS[0]:  # rankings of before there were experts say nothing of them
            del out["experts"]
        return out


@dataclass(frozen=True, eq=False)
class Ranking:
    """What is important in one parent.

    Attributes:
        parent: shape of the model that was ranked.
        orders: channels from most to least important by name, see `ranking.orders`: "hidden", "ffn.3",
            "mamba_heads.0", "mamba_head_dim.0", "attention_heads.7" (number: layer); "expert_ffn.1" has a row for each
            expert.
        scores: the importances behind them, same names.
        depth: layers from least to most important; a depth of k keeps the last k of them.
        depth_scores: each layer's score when it was dropped; None where it had none.
        options: how importance was measured.
        provenance: JSON values: data, samples, who.
    """

    parent: Parent
    orders: Mapping[str, np.ndarray]
    scores: Mapping[str, np.ndarray]
    depth: tuple[int, ...]
    depth_scores: tuple[float | None, ...]
    options: RankOptions = field(default_factory=RankOptions)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_orders(self.parent, self.orders)
        n = self.parent.num_layers
        if len(self.depth) != n or sorted(self.depth) != list(range(n)) or len(self.depth_scores) != n:
            raise ElasticError(f"ranking: depth must order all {n} layers, each once, with a score for each")

    @classmethod
    def trivial(cls, parent: Parent) -> Ranking:
        """Storage order as importance, last layers dropped first: what an unranked parent amounts to."""
        depth = tuple(range(parent.num_layers - 1, -1, -1))
        orders = identity(parent)
        scores = {name: np.zeros(o.shape) for name, o in orders.items()}
        return cls(parent, orders, scores, depth, (None,) * len(depth), provenance={"trivial": True})

    @classmethod
    def of_stream(cls, parent: Parent, order: np.ndarray) -> Ranking:
        """An order of the residual stream; everything else stays where it is stored, in whatever blocks.

        Args:
            parent: whose layers read the stream.
            order: of its channels.
        """
        still = cls.trivial(parent)
        orders, scores = unmoved(parent)
        return replace(still, orders=orders | {HIDDEN: np.asarray(order)}, scores=scores)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the orders and the depth, independent of scores, options and of how it was saved."""
        h = hashlib.sha256(b"nemo-elastic ranking 1")
        for name in sorted(self.orders):
            h.update(f"\n{name}\n".encode())
            h.update(np.ascontiguousarray(self.orders[name], dtype="<i8").tobytes())
        h.update(b"\ndepth\n")
        h.update(np.asarray(self.depth, dtype="<i8").tobytes())
        return h.hexdigest()

    def check(self, parent: Parent, where: str = "ranking") -> Ranking:
        """Return self if it ranks `parent`; stripes may differ, for they are a layout of the same channels.

        Raises:
            ElasticError: it ranks another parent; the message has the first field that differs.
        """
        name = first_difference(self.parent.striped_as(parent), parent)
        if name is not None:
            ours, theirs = (shape.to_json().get(name) for shape in (self.parent, parent))
            raise ElasticError(
                f"{where}: made for another parent ({name} is {ours!r} there, {theirs!r} in this parent); "
                "rank this parent"
            )
        return self

    def check_depth(self, smallest: int, where: str = "ranking") -> Ranking:
        """Return self if the layers that a depth of `smallest` drops were measured one by one, or by cosine.

        Raises:
            ElasticError: fewer drops were measured (`RankOptions.depth_exact`).
        """
        exact = self.options.depth_exact
        if self.options.depth == "mse" and exact is not None and smallest < self.parent.num_layers - exact:
            least = f"at least {self.parent.num_layers - exact}, the depth down to which {where} measured; rank anew"
            raise bad("elastic.axes.depth", smallest, least)
        return self

    def save(
        self, out: str | os.PathLike[str], force: bool = False, inputs: Sequence[str | os.PathLike[str]] = ()
    ) -> None:
        """Write the folder whole or not at all.

        Args:
            out: the folder.
            force: replace an earlier one.
            inputs: folders that were read for it, from which it has to be apart.

        Raises:
            ElasticError: `out` may not be written, see `atomic_dir`, or cannot be.
        """
        with atomic_dir(out, force, inputs, RANKING) as folder:
            head = {
                "version": VERSION,
                "digest": self.digest,
                "parent": self.parent.to_json(),
                "options": self.options.to_json(),
                "depth": [{"layer": j, "score": s} for j, s in zip(self.depth, self.depth_scores, strict=True)],
                "provenance": dict(self.provenance),
            }
            text = json.dumps(head, indent=2, allow_nan=False) + "\n"
            tensors = {f"order.{k}": np.ascontiguousarray(v, dtype=np.int64) for k, v in self.orders.items()}
            tensors |= {f"score.{k}": np.ascontiguousarray(v, dtype=np.float64) for k, v in self.scores.items()}
            save_file(tensors, folder / TENSORS)
            (folder / JSON).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], parent: Parent | None = None) -> Ranking:
        """Read and check a folder that `save` wrote.

        Args:
            path: the folder.
            parent: what it must rank; None takes what it says.

        Raises:
            ElasticError: not a ranking, of another version, damaged, or of another parent.
        """
        path = Path(path)
        file, numbers = path / JSON, path / TENSORS
        data = read_json(file)
        with inside(file):
            check_version(data, VERSION)
            head = read(_Head, data, "")
            shape = Parent.from_json(head.parent)
        tensors = _tensors(numbers)
        parts: dict[str, dict[str, np.ndarray]] = {"order": {}, "score": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind not in parts:
                raise ElasticError(f"{numbers}: unknown tensor {name!r}")
            parts[kind][rest] = value
        depth, depth_scores = tuple(step.layer for step in head.depth), tuple(step.score for step in head.depth)
        with inside(path):
            out = cls(shape, parts["order"], parts["score"], depth, depth_scores, head.options, head.provenance)
        if out.digest != head.digest:
            raise ElasticError(f"{path}: damaged: the orders do not have the digest that {file.name} gives")
        return out.check(parent, str(path)) if parent is not None else out


@dataclass
class _Step:
    layer: int
    score: float | None


@dataclass
class _Head:
    """`ranking.json`."""

    version: int
    digest: str
    parent: Any
    options: RankOptions
    depth: tuple[_Step, ...]
    provenance: Mapping[str, Any]


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load(read_bytes(path, _TENSOR_BYTES))
    except FileNotFoundError:
        raise ElasticError(f"{path}: no such file") from None
    except ElasticError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:  # dtypes that numpy has not, too
        raise ElasticError(f"{path}: not readable as safetensors ({e})") from None
