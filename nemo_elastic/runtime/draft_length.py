# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How many tokens to draft: as many as pay, by the share that was accepted so far.

Where each draft token is accepted with probability a, and the draft's forward costs c of the large member's, k draft
tokens make speculation this many times as fast (Leviathan et al., arXiv 2211.17192, theorem 3.8)::

    (1 + a + ... + a^k) / (c k + 1)
"""

from __future__ import annotations

from dataclasses import dataclass

#: most tokens that are drafted at once where nothing else is asked for
MOST = 8
#: forwards of the large member alone until a draft is tried again that did not pay
PAUSE = 16
#: what the share accepted is taken for before anything is known, and how many tokens that is worth
_GUESS, _WORTH = 0.8, 4.0
#: how much of what was seen counts one round later
_FADE = 0.95


def speed_up(accepted: float, k: int, cost: float) -> float:
    """Tokens per time with k draft tokens over tokens per time without.

    Args:
        accepted: the share of draft tokens that is accepted where all before it were, 0 to 1.
        k: draft tokens, from 0.
        cost: a forward of the draft over one of the large member.
    """
    return sum(accepted**n for n in range(k + 1)) / (cost * k + 1)


def best_length(accepted: float, cost: float, most: int = MOST) -> int:
    """The number of draft tokens from 0 to `most` with the largest `speed_up`; of equal ones the smallest."""
    return max(range(most + 1), key=lambda k: speed_up(accepted, k, cost))


@dataclass
class DraftLength:
    """How many tokens to draft next for one prompt.

    Attributes:
        cost: a forward of the draft over one of the large member.
        fixed: always this many; None for as many as pay by what this prompt has seen.
    """

    cost: float
    fixed: int | None = None
    _accepted: float = _GUESS * _WORTH
    _seen: float = _WORTH
    _paused: int = 0

    def next(self, most: int) -> int:
        """How many now, at most `most`; 0 where drafting does not pay, but for one token now and then."""
        if self.fixed is not None:
            return min(self.fixed, most)
        found = best_length(self._accepted / self._seen, self.cost)
        if not found:
            self._paused += 1
            if self._paused <= PAUSE:
                return 0
        self._paused = 0
        return min(max(found, 1), most)

    def learn(self, drafted: int, accepted: int) -> None:
        """What became of a draft: tokens behind the first that was not accepted say nothing."""
        if drafted:
            self._accepted = self._accepted * _FADE + accepted
            self._seen = self._seen * _FADE + accepted + (accepted < drafted)
