# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`Ranking`: the orders of every axis of one parent, on disk `ranking.json` and `ranking.safetensors`.

With how importance was measured. Reading a ranking needs no torch.

An order is a list of channel numbers from most to least important. Where an axis has groups that channels may not
leave (Mamba heads share the B and C of their group, query heads the key and value of theirs), the list alternates over
the groups: best of group 0, best of group 1, ..., second of group 0, ... `BlockedPrefix.order_to_layout` turns any
order into the storage order. Where each channel of one axis has an order of its own on another (neurons of each
expert), there is a row for each.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import AGGREGATIONS, DEPTH_SCORES, EXPERTS, FFN, HIDDENS
from nemo_elastic.core.family import Parent, first_difference
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, layer_axes
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.io.fields import Between, OneOf, check, check_version, read
from nemo_elastic.io.outputs import Output, atomic_dir
from nemo_elastic.io.read import read_bytes, read_json

VERSION = 1
JSON, TENSORS, BASIS = "ranking.json", "ranking.safetensors", "basis"
#: two numbers per channel of a parent, a hundred times over, and a basis: a 12B has 20 MB and 105 MB
_TENSOR_BYTES = 2**31
RANKING = Output(
    "a ranking",
    re.escape(TENSORS),
    JSON,
    frozenset({"version", "digest", "parent", "depth"}),
)
_TIED = "the head is tied to the embedding, which cannot take the final norm's weight"
_OrAll = Annotated[int, Between(1, said="at least 1, or null for all")] | None


@dataclass(frozen=True)
class RankOptions:
    """How importance is measured.

    Attributes:
        hidden: channels of the residual stream by "magnitude" of the norms' outputs, as in files of before there was a
            choice, or the principal directions of the norms' inputs as a new "basis" (`Ranking.basis`).
        ffn: neurons by the "activation" that enters the second linear (Minitron), or by the "first" linear's output
            (Nemotron Elastic).
        aggregation: "l2_mean" is sqrt(sum over samples of (mean over tokens of |a|)^2), "mean" the mean over both.
        depth: "mse" drops layers one by one by the change of the logits; "cosine" scores all of them in the pass that
            scores the widths, by 1 - cosine of a layer's input and output.
        depth_samples: sequences on which "mse" is measured, shared among the ranks that see other samples.
        depth_exact: how many drops "mse" measures anew; the layers left keep the order of the last round. None: all.
        head_channels: how many of the best channels score a Mamba head, e.g. the smallest head_dim of the family.
            None: all.
        experts: of an expert's weight times the norm of its output, over the tokens that are routed to it: the
            "mean" (REAP), or "l2", the root of the mean square.
    """

    hidden: Annotated[str, OneOf(HIDDENS)] = "magnitude"
    ffn: Annotated[str, OneOf(FFN)] = "activation"
    aggregation: Annotated[str, OneOf(AGGREGATIONS)] = "l2_mean"
    depth: Annotated[str, OneOf(DEPTH_SCORES)] = "mse"
    depth_samples: Annotated[int, Between(1)] = 8
    depth_exact: _OrAll = None
    head_channels: _OrAll = None
    experts: Annotated[str, OneOf(EXPERTS)] = "mean"

    def __post_init__(self) -> None:
        check(self, "rank")

    @classmethod
    def of(cls, config: ElasticConfig, parent: Parent) -> RankOptions:
        """As a block asks for it: layers are dropped one by one down to its smallest depth; others are not measured.

        A head that is tied to the embedding, and a stream that no member cuts, take no basis.

        Raises:
            ElasticError: The block's axes do not fit the parent.
        """
        importance, axes = config.importance, config.resolve_axes(parent)
        rotates = importance.hidden == "basis" and not parent.tied and len(axes[HIDDEN].choices) > 1
        return cls(
            hidden="basis" if rotates else "magnitude",
            ffn=importance.ffn,
            aggregation=importance.aggregation,
            experts=importance.experts,
            depth=importance.depth,
            depth_samples=min(importance.depth_samples, importance.samples),
            depth_exact=max(1, parent.num_layers - axes[DEPTH].choices[-1]),
            # a head's score is that of the channels that every member keeps
            head_channels=axes[MAMBA_HEAD_DIM].choices[-1] if MAMBA_HEAD_DIM in axes else None,
        )

    def to_json(self) -> dict[str, Any]:
        out = asdict(self)
        for name, default in (("experts", EXPERTS[0]), ("hidden", "magnitude")):
            if out[name] == default:  # rankings of before there was a choice do not have the field
                del out[name]
        return out


@dataclass(frozen=True, eq=False)
class Ranking:
    """Importance of one parent's channels, heads, neurons, experts and layers.

    Attributes:
        parent: shape of the model that was ranked.
        orders: channels from most to least important by name, see `names`: "hidden", "ffn.3",
            "mamba_heads.0", "mamba_head_dim.0", "attention_heads.7" (number: layer); "expert_ffn.1" has a row for each
            expert.
        scores: importances that the orders follow from, same names.
        depth: layers from least to most important; a depth of k keeps the last k of them.
        depth_scores: each layer's score when it was dropped; None where it had none.
        options: how importance was measured.
        provenance: JSON values: data, samples, who.
        basis: float32 [hidden, hidden], orthogonal: channel j of the sorted stream is the old stream times column j.
            The hidden order is then the storage order. None: channels are permuted.
    """

    parent: Parent
    orders: Mapping[str, np.ndarray]
    scores: Mapping[str, np.ndarray]
    depth: tuple[int, ...]
    depth_scores: tuple[float | None, ...]
    options: RankOptions = field(default_factory=RankOptions)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    basis: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_orders(self.parent, self.orders)
        if self.basis is not None:
            check_basis(self.parent, self.basis, self.orders[HIDDEN])
        n = self.parent.num_layers
        if len(self.depth) != n or sorted(self.depth) != list(range(n)) or len(self.depth_scores) != n:
            raise ElasticError(f"ranking: depth must order all {n} layers, each once, with a score for each")

    @classmethod
    def trivial(cls, parent: Parent) -> Ranking:
        """Storage order as importance, last layers dropped first, for a parent that was not ranked."""
        depth = tuple(range(parent.num_layers - 1, -1, -1))
        orders = storage_orders(parent)
        scores = {name: np.zeros(o.shape) for name, o in orders.items()}
        return cls(parent, orders, scores, depth, (None,) * len(depth), provenance={"trivial": True})

    @classmethod
    def of_hidden_order(cls, parent: Parent, order: np.ndarray) -> Ranking:
        """A ranking that reorders only the residual stream, by `order`; other channels stay where they are stored."""
        in_place = cls.trivial(parent)
        orders, scores = orders_in_place(parent)
        return replace(in_place, orders=orders | {HIDDEN: np.asarray(order)}, scores=scores)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over orders, depth and basis, independent of scores, options and of how it was saved."""
        h = hashlib.sha256(b"nemo-elastic ranking 1")
        for name in sorted(self.orders):
            h.update(f"\n{name}\n".encode())
            h.update(np.ascontiguousarray(self.orders[name], dtype="<i8").tobytes())
        h.update(b"\ndepth\n")
        h.update(np.asarray(self.depth, dtype="<i8").tobytes())
        if self.basis is not None:
            h.update(b"\nbasis\n" + np.ascontiguousarray(self.basis, dtype="<f4").tobytes())
        return h.hexdigest()

    def check(self, parent: Parent, where: str = "ranking") -> Ranking:
        """Return self if it ranks `parent`, else raise `ElasticError` with the first field that differs.

        Stripes may differ, for they are a layout of the same channels.
        """
        name = first_difference(self.parent.laid_out_as(parent), parent)
        if name is not None:
            ours, theirs = (shape.to_json().get(name) for shape in (self.parent, parent))
            raise ElasticError(
                f"{where}: made for another parent ({name} is {ours!r} there, {theirs!r} in this parent); "
                "rank this parent"
            )
        return self

    def check_block(self, config: ElasticConfig, parent: Parent) -> Ranking:
        """Return self if its drops of layers suffice for a block that names it, else raise `ElasticError`."""
        return self.check_depth(config.resolve_axes(parent)[DEPTH].choices[-1], str(config.ranking))

    def check_depth(self, smallest: int, where: str = "ranking") -> Ranking:
        """Return self if the layers that a depth of `smallest` drops were measured one by one, or by cosine.

        `ElasticError` where fewer drops were measured (`RankOptions.depth_exact`).
        """
        exact = self.options.depth_exact
        if self.options.depth == "mse" and exact is not None and smallest < self.parent.num_layers - exact:
            least = self.parent.num_layers - exact
            allowed = f"at least {least}, the smallest depth that {where} measured; rank the parent again"
            raise bad("elastic.axes.depth", smallest, allowed)
        return self

    def save(
        self, out: str | os.PathLike[str], force: bool = False, inputs: Sequence[str | os.PathLike[str]] = ()
    ) -> None:
        """Write the folder whole or not at all; `force` replaces an earlier one.

        It may not lie in or contain the `inputs`, folders that were read for it; see `atomic_dir`.
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
            if self.basis is not None:
                tensors[BASIS] = np.ascontiguousarray(self.basis)
            save_file(tensors, folder / TENSORS)
            (folder / JSON).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], parent: Parent | None = None) -> Ranking:
        """Read and check a folder that `save` wrote, which must rank `parent` where one is given.

        `ElasticError` for a folder without a ranking, a damaged one, another version, or another parent.
        """
        path = Path(path)
        file, numbers = path / JSON, path / TENSORS
        data = read_json(file)
        with inside(file):
            check_version(data, VERSION)
            head = read(_Head, data, "")
            shape = Parent.from_json(head.parent)
        tensors = _tensors(numbers)
        basis = tensors.pop(BASIS, None)
        parts: dict[str, dict[str, np.ndarray]] = {"order": {}, "score": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind not in parts:
                raise ElasticError(f"{numbers}: unknown tensor {name!r}")
            parts[kind][rest] = value
        depth, depth_scores = tuple(step.layer for step in head.depth), tuple(step.score for step in head.depth)
        with inside(path):
            out = cls(shape, parts["order"], parts["score"], depth, depth_scores, head.options, head.provenance, basis)
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


def names(parent: Parent) -> Iterator[tuple[str, str, int | None]]:
    """Every order of a parent: (name, axis, layer index), e.g. ("ffn.3", "ffn", 3); hidden has layer None.

    An axis that is the blocks of another one is ordered by what lies in the blocks (`block_order`).
    """
    yield HIDDEN, HIDDEN, None
    for i, kind in enumerate(map(parent.kind, parent.types)):
        for axis in kind.channels:
            if axis not in kind.nested.values():
                yield f"{axis}.{i}", axis, i


def block_order(scores: np.ndarray, blocks: int) -> np.ndarray:
    """Blocks from most to least important: by the norm of the scores of their channels; ties keep their order."""
    return order(np.linalg.norm(np.asarray(scores).reshape(blocks, -1), axis=1))


def order(scores: np.ndarray, groups: int = 1) -> np.ndarray:
    """Channels from most to least important, int64 [size]; ties keep their storage order.

    Each of the `groups`, equal blocks of channels, is ranked separately, and the order alternates between groups.
    """
    per_group = np.asarray(scores).reshape(groups, -1)
    inside = np.argsort(-per_group, axis=1, kind="stable")
    return (inside + np.arange(groups)[:, None] * per_group.shape[1]).T.reshape(-1).astype(np.int64)


def make_orders(parent: Parent, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Orders of all axes from the `Statistics.scores` of a parent."""
    return {name: _each(scores[name], _groups(parent, axis)) for name, axis, _ in names(parent)}


def _each(scores: np.ndarray, groups: int) -> np.ndarray:
    """Order of scores [size], or of each row of scores [rows, size]."""
    return order(scores, groups) if scores.ndim == 1 else np.stack([order(row, groups) for row in scores])


def shape(parent: Parent, axis: str) -> tuple[int, ...]:
    """Shape of the orders of an axis in one layer: [size], or [channels of `Axis.each`, size]."""
    size = parent.axis(axis).size
    each = None if axis == HIDDEN else layer_axes()[axis][1].each
    return (size,) if each is None else (parent.axis(each).size, size)


def storage_orders(parent: Parent) -> dict[str, np.ndarray]:
    """Orders by channel number: heads stay where they are stored, and with one stripe all channels."""
    return {name: _each(np.zeros(shape(parent, axis)), _groups(parent, axis)) for name, axis, _ in names(parent)}


def orders_in_place(parent: Parent) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Orders that leave every channel where it is stored, and scores that give these orders."""
    orders: dict[str, np.ndarray] = {}
    scores: dict[str, np.ndarray] = {}
    for name, axis, layer in names(parent):
        orders[name] = np.broadcast_to(_order_in_place(parent, axis), shape(parent, axis)).copy()
        scores[name] = np.zeros(orders[name].shape)
        blocks = {} if layer is None else parent.kind(parent.types[layer]).nested
        if axis in blocks:  # nested: heads in key-value groups that have stripes
            each = np.empty(parent.size(blocks[axis]))
            each[_order_in_place(parent, blocks[axis])] = np.arange(len(each), 0, -1)
            scores[name] = each.repeat(len(scores[name]) // len(each))
    return orders, scores


def _order_in_place(parent: Parent, axis: str) -> np.ndarray:
    """The order that `BlockedPrefix.order_to_layout` leaves where it is."""
    prefix = parent.axis(axis)
    return np.arange(prefix.size).reshape(prefix.blocks, -1).T.reshape(-1)


def check_orders(parent: Parent, orders: Mapping[str, np.ndarray]) -> None:
    """Raise `ElasticError` for a missing order, one that is no permutation, or one that moves heads between groups."""
    expected = {name: axis for name, axis, _ in names(parent)}
    for name in sorted(set(expected) ^ set(orders)):
        raise ElasticError(f"ranking: order {name!r} is {'missing' if name in expected else 'not of this parent'}")
    for name, axis in expected.items():
        size, groups = parent.axis(axis).size, _groups(parent, axis)
        given, wanted = np.asarray(orders[name]), shape(parent, axis)
        if given.shape != wanted or given.dtype.kind != "i" or np.any(np.sort(given) != np.arange(size)):
            raise ElasticError(f"ranking: order {name!r} is not a permutation of its {size} channels")
        if np.any(given // (size // groups) != np.tile(np.arange(groups), size // groups)):
            raise ElasticError(f"ranking: order {name!r} moves a head out of its group of {size // groups}")


def check_basis(parent: Parent, basis: np.ndarray, order: np.ndarray) -> None:
    """Raise `ElasticError` unless the parent can be rotated by the basis and `order` leaves the stream as it is."""
    if parent.tied:
        raise ElasticError(f"ranking: basis: {_TIED}; rank by importance.hidden: magnitude")
    given = (basis.shape, basis.dtype)
    if given != ((parent.hidden, parent.hidden), np.float32):
        raise bad("ranking: basis", f"{given[1]} {given[0]}", f"float32 {(parent.hidden, parent.hidden)}")
    if np.any(order != np.arange(parent.hidden)):
        raise ElasticError(f"ranking: order {HIDDEN!r} moves channels of a stream that a basis rotates")
    some = np.random.default_rng(0).standard_normal((parent.hidden, 4)).astype(np.float32)
    error = np.abs(basis.T @ (basis @ some) - some).max()
    if not error < 1e-3:
        raise ElasticError("ranking: basis is not orthogonal; rank the parent again")


def _groups(parent: Parent, axis: str) -> int:
    """Number of groups that channels cannot leave; 1 where blocks are only a storage layout."""
    return parent.axis(axis).blocks if axis != HIDDEN and layer_axes()[axis][1].grouped else 1
