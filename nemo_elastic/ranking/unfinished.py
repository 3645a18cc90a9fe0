# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`Unfinished`: what a ranking has measured so far, in one safetensors file, so that a killed one resumes.

Numbers are kept as they are (float64, exact in JSON too), so a ranking that resumes gives the bits of one that was
never stopped. A file says which parent, weights, options and data it belongs to; any other ranking leaves it alone.

Ranks that hold one model together measure in step, layer by layer, so they must resume from the same point: a kill
between the saves of two of them would leave two points. What one of them has measured all have, so the first of the
group writes and reads for all.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nemo_elastic.core.family import Parent, known_fields
from nemo_elastic.errors import ElasticError
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.bounded import open_regular
from nemo_elastic.ranking.depth import Drops
from nemo_elastic.ranking.scores import RankOptions, Statistics

VERSION = 1
#: seconds between two saves
EVERY = 60.0
#: names of the files of groups of ranks, whatever the layout
NAME = "ranking.unfinished-*.safetensors"


class OtherRanking(ElasticError):
    """An unfinished ranking is there, but not of this parent, data and options."""


@dataclass
class Measured:
    """What is known of a ranking.

    Attributes:
        batches: how many went into the sums.
        data: digest of these.
        complete: there are no others.
        sums: of `Statistics`, on this rank alone.
        samples: as in `Statistics`.
        drops: rounds of the depth.
    """

    batches: int = 0
    data: str = ""
    complete: bool = False
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    drops: Drops = field(default_factory=Drops)


class Unfinished:
    """One file for a ranking that may be killed; `rank` reads and writes it, who saves the ranking removes it.

    Args:
        path: the file; each rank that sees other samples has its own. Ranks that hold one model together have one.
        weights: gives the parent's tensors, of which this rank may have shards, in the same order every time.
        every: seconds between two saves.
        say: called with a line when a ranking resumes from the file.
        group: the ranks that hold one model together; all of them call the same methods in the same order.

    Attributes:
        first: whether this rank reads and writes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        weights: Callable[[], Iterable[torch.Tensor]],
        every: float | None = None,
        say: Callable[[str], None] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.path, self.weights, self.say = Path(path), weights, say
        self.group = None if group is None or group.size() == 1 else group
        self.first = self.group is None or self.group.rank() == 0
        self.every = EVERY if every is None else every
        self._saved = time.monotonic()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the weights. Reads all of them, so only a ranking that takes long enough to be saved has it."""
        h = hashlib.sha256()
        for t in self.weights():
            h.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if self.group is None:
            return h.hexdigest()
        each: list[Any] = [None] * self.group.size()
        dist.all_gather_object(each, h.hexdigest(), group=self.group)
        return hashlib.sha256(" ".join(each).encode()).hexdigest()

    def _of_first(self, value: Any) -> Any:
        """The first rank's value."""
        if self.group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, dist.get_global_rank(self.group, 0), group=self.group)
        return box[0]

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return self._of_first(time.monotonic() - self._saved >= self.every)

    def save(self, parent: Parent, options: RankOptions, measured: Measured) -> None:
        """Write the file whole or not at all."""
        weights = self.digest  # of all ranks
        if not self.first:
            return
        head = {
            "version": VERSION,
            "parent": parent.to_json(),
            "options": options.to_json(),
            "weights": weights,
            "batches": measured.batches,
            "data": measured.data,
            "complete": measured.complete,
            "samples": measured.samples,
            "drops": asdict(measured.drops),
        }
        content = save(measured.sums, {"ranking": json.dumps(head, allow_nan=False)})
        atomic_write(self.path, content)
        self._saved = time.monotonic()

    def load(self, parent: Parent, options: RankOptions) -> Measured | None:
        """What an earlier run of the same ranking left; None where there is no file.

        Raises:
            OtherRanking: it is of another parent, other weights or options. `rank` finds out about other data.
            ElasticError: the file is something else.
        """
        if not self._of_first(self.path.exists()):
            return None
        _ = self.digest  # of all ranks
        left: Measured | ElasticError | None = None
        try:
            left = self._read(parent, options) if self.first else None
        except ElasticError as error:
            left = error
        left = self._of_first(left)
        if isinstance(left, ElasticError):
            raise left
        return left

    def _read(self, parent: Parent, options: RankOptions) -> Measured | None:
        try:
            open_regular(self.path).close()  # a pipe of that name would keep `safe_open` waiting
            with safe_open(self.path, "numpy") as file:
                head = known_fields(_Head, json.loads((file.metadata() or {})["ranking"]), "ranking")
                sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            drops = Drops(**head["drops"])
            drops.last = {int(j): s for j, s in drops.last.items()}
            measured = Measured(int(head["batches"]), head["data"], head["complete"], sums, head["samples"], drops)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
            raise self._no_ranking() from None
        if head["version"] != VERSION or head["parent"] != parent.to_json():
            raise self.other("parent")
        if head["options"] != options.to_json():
            raise self.other("options")
        if head["weights"] != self.digest:
            raise self.other("weights")
        wanted = {name: tuple(t.shape) for name, t in Statistics(parent, options).sums.items()}
        if {name: total.shape for name, total in sums.items()} != wanted or set(measured.samples) != set(wanted):
            raise self._no_ranking()
        if self.say is not None:
            self.say(f"{self.path}: going on after {measured.batches} batches and {len(drops.layers)} dropped layers")
        return measured

    def other(self, what: str) -> OtherRanking:
        """The error for a file that belongs to a ranking with another parent, other options, weights or data."""
        return OtherRanking(f"{self.path}: an unfinished ranking with other {what}; remove it to start anew")

    def _no_ranking(self) -> ElasticError:
        return ElasticError(f"{self.path}: not an unfinished ranking; remove it")

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self.first:
            self.path.unlink(missing_ok=True)


@dataclass
class _Head:
    """Field names of the file's metadata, for `known_fields`."""

    version: int
    parent: Any
    options: Any
    weights: str
    batches: int
    data: str
    complete: bool
    samples: dict
    drops: dict


def unfinished_file(folder: Path, tensor: int, data: int, expert: int, rank: int) -> Path:
    """The file of a tensor-parallel group, by its layout: another layout would resume with other samples or shards.

    Args:
        folder: of the ranking.
        tensor, data, expert: sizes of the layout.
        rank: the data-parallel rank.

    Raises:
        OtherRanking: ranks of another layout have left theirs.
    """
    experts = f"-ep{expert}" if expert > 1 else ""
    own = [NAME.replace("*", f"tp{tensor}{experts}-dp{data}-{i}") for i in range(data)]
    if any(file.name not in own for file in folder.glob(NAME)):
        layout = f"tensor-parallel size {tensor}, data-parallel size {data}"
        layout += f", expert-parallel size {expert}" if expert > 1 else ""
        raise OtherRanking(
            f"{folder / NAME}: an unfinished ranking with other ranks than these ({layout}); remove it to start anew"
        )
    return folder / own[rank]
