# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""All members of a family as one model: each prompt gets the member that its signals ask for."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.cache import Cache
from nemo_elastic.nn.generate import Prefill, token_limits

from .answer import Pieces, Stream, gathered
from .calibration import Calibration, check_cost
from .prompts import Prompts, read_prompts
from .signals import read

if TYPE_CHECKING:
    from .member_model import MemberModel
    from .prompts import Companions


class Auto:
    """Chooses a member for every prompt; `FamilyRuntime.auto` makes it.

    Args:
        members: of the family, from the smallest to the largest.
        calibration: of these members.
        cost: the cost setting, see `Calibration.choose`.
        companions: files beside the weights, for text.

    Attributes:
        cost: the cost setting.

    Raises:
        ElasticError: no number from 0 to 1, or a calibration of other members.
    """

    def __init__(
        self, members: Sequence[MemberModel], calibration: Calibration, cost: float, companions: Companions
    ) -> None:
        if tuple(m.name for m in members) != calibration.members:
            raise ElasticError(f"made of other members: {', '.join(calibration.members)}", "calibration")
        self.cost = check_cost(cost)
        self._members, self._calibration, self._companions = list(members), calibration, companions

    def choose(self, prompts: Any) -> Any:
        """Names of the members that would answer; of one prompt one name.

        Args:
            prompts: as in `MemberModel.generate`.
        """
        given = read_prompts(prompts, self._companions, self._members[0].parent.vocab)
        names = [self._members[i].name for i in self._chosen(given)[0]]
        return names[0] if given.single else names

    def generate(
        self,
        prompts: Any,
        max_new_tokens: int | Sequence[int] = 256,
        stop_ids: Iterable[int] | None = None,
        *,
        stream: bool = False,
        **how: Any,
    ) -> Any:
        """What comes after each prompt, by the member that it gets.

        The smallest member reads a prompt first, to choose. It goes on from there, or the one that was chosen reads
        the prompt as well. Each answer is what its member gives; where tokens are sampled, what it samples for those
        prompts alone that it gets.

        Args:
            prompts, max_new_tokens, stop_ids, stream: as in `MemberModel.generate`.
            how: its other arguments.

        Returns:
            As there. With `stream` the pieces of one member's prompts after those of another's, see `AutoStream`.

        Raises:
            ElasticError: as there.
        """
        given = read_prompts(prompts, self._companions, self._members[0].parent.vocab)
        limits = token_limits(max_new_tokens, len(given.ids), low=1)
        chosen, begun = self._chosen(given)
        groups: dict[int, list[int]] = {}
        for i, member in enumerate(chosen):
            groups.setdefault(member, []).append(i)
        streams = []
        for member in sorted(groups):
            rows = groups[member]
            part = Prompts([given.ids[i] for i in rows], False, given.are_text)
            left = _joined([begun[i] for i in rows]) if member == 0 and begun else None
            answering = self._members[member].start(part, [limits[i] for i in rows], stop_ids, **how, begun=left)
            streams.append((rows, answering))
        running = AutoStream(streams, [str(self._members[i].name) for i in chosen], given.single)
        return running if stream else gathered(running, given)

    def _chosen(self, given: Prompts) -> tuple[list[int], list[Prefill]]:
        """Of each prompt the position of its member, and what its reading has left; nothing is read at the ends."""
        if self.cost in (0, 1):
            return [0 if self.cost == 0 else len(self._members) - 1] * len(given.ids), []
        readings = [read(self._members[0].weights, ids) for ids in given.ids]
        signals_ns = np.array([signals for signals, _ in readings])
        return self._calibration.choose(signals_ns, self.cost).tolist(), [begun for _, begun in readings]


def _joined(parts: Sequence[Prefill]) -> Prefill:
    """One batch of prompts that were read one by one."""
    return Cache.joined([cache for cache, _ in parts]), torch.cat([logits_bv for _, logits_bv in parts])


class AutoStream(Pieces):
    """Answers of several members as they come: pieces as of `Stream`.

    Args:
        streams: of each member the numbers of its prompts, and its answers.
        members: of each prompt.
        single: one prompt was given, not a batch.

    Attributes:
        members: names of those that answer, of each prompt.
    """

    def __init__(self, streams: Sequence[tuple[Sequence[int], Stream]], members: list[str], single: bool) -> None:
        self.members = members
        self._streams = streams
        super().__init__(self._run(), single)

    def _run(self) -> Generator[tuple[int, str | int], None, None]:
        with ExitStack() as open_ones:
            for _, stream in self._streams:
                open_ones.enter_context(closing(stream))
            for rows, stream in self._streams:
                for i, piece in stream.numbered():
                    yield rows[i], piece

    def _of_each(self, name: str) -> list[int]:
        counts = [0] * len(self.members)
        for rows, stream in self._streams:
            for i, count in zip(rows, getattr(stream, name), strict=True):
                counts[i] = count
        return counts

    @property
    def prompt_tokens(self) -> list[int]:
        """How many tokens each prompt has."""
        return self._of_each("prompt_tokens")

    @property
    def new_tokens(self) -> list[int]:
        """How many were decoded for each, so far."""
        return self._of_each("new_tokens")

    @property
    def drafted(self) -> list[int]:
        """How many a draft has said for each, so far."""
        return self._of_each("drafted")

    @property
    def accepted(self) -> list[int]:
        """How many of these the member would have said too."""
        return self._of_each("accepted")
