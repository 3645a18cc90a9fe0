# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An unfinished ranking of ranks that hold one model together.

They measure in step, layer by layer, so they must go on from the same point: a kill between the saves of two of them
would leave two points. What one of them has measured all have, so the first of the group writes and reads for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError
from nemo_elastic.ranking import OtherRanking, RankOptions, Unfinished
from nemo_elastic.ranking.unfinished import Measured

#: names of such files, whatever the layout
NAME = "ranking.unfinished-*.safetensors"


class UnfinishedTogether(Unfinished):
    """One file for the ranks of a tensor-parallel group, all of which call the same methods in the same order.

    Args:
        path: the file, one per group.
        weights: gives this rank's shards.
        group: the tensor-parallel group.
        every, say: as in `Unfinished`; the first rank's count.
    """

    def __init__(
        self,
        path: Path,
        weights: Callable[[], Iterable[torch.Tensor]],
        group: dist.ProcessGroup,
        every: float | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(path, weights, every, say)
        self.group, self.first = group, group.rank() == 0

    def _hash(self) -> str:
        each: list[Any] = [None] * self.group.size()
        dist.all_gather_object(each, super()._hash(), group=self.group)
        return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()

    @property
    def due(self) -> bool:
        return self._told(super().due)

    def save(self, parent: Parent, options: RankOptions, measured: Measured) -> None:
        _ = self.digest  # of all ranks' weights
        if self.first:
            super().save(parent, options, measured)

    def load(self, parent: Parent, options: RankOptions) -> Measured | None:
        if not self._told(self.path.exists()):
            return None
        _ = self.digest
        found: Any = None
        if self.first:
            try:
                found = super().load(parent, options)
            except ElasticError as error:
                found = error
        found = self._told(found)
        if isinstance(found, ElasticError):
            raise found
        return found

    def remove(self) -> None:
        if self.first:
            super().remove()

    def _told(self, value: Any) -> Any:
        """The first rank's value."""
        if self.group.size() == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, dist.get_global_rank(self.group, 0), group=self.group)
        return box[0]


def unfinished_file(folder: Path, tensor: int, data: int, expert: int, rank: int) -> Path:
    """The file of a tensor-parallel group, by its layout: another layout would go on with other samples or shards.

    Args:
        folder: of the ranking.
        tensor, data, expert: sizes of the layout.
        rank: the data-parallel rank.

    Raises:
        OtherRanking: ranks of another layout have left theirs.
    """
    experts = f"-ep{expert}" if expert > 1 else ""
    own = [NAME.replace("*", f"tp{tensor}{experts}-dp{data}-{i}") for i in range(data)]
    if any(found.name not in own for found in folder.glob(NAME)):
        layout = f"tensor-parallel size {tensor}, data-parallel size {data}"
        layout += f", expert-parallel size {expert}" if expert > 1 else ""
        raise OtherRanking(
            f"{folder / NAME}: an unfinished ranking with other ranks than these ({layout}); remove it to start anew"
        )
    return folder / own[rank]
