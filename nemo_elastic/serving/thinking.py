# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the thinking ends: by the tokens that say so, or after a number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.values import integer

if TYPE_CHECKING:
    from nemo_elastic.runtime.tokenizer import FamilyTokenizer

#: how models of the field end their thoughts
USUAL = "</think>"
#: the field of `vllm_xargs`, named as vLLM names its own limit
BUDGET = "thinking_token_budget"


@dataclass(frozen=True)
class Thinking:
    """When an answer of two members goes over from the first to the second.

    Attributes:
        end: token ids that end the thinking, in a row; empty where the family has none.
    """

    end: tuple[int, ...] = ()

    def over(self, output: Sequence[int], new: int, budget: int | None) -> bool:
        """Whether the thinking has ended.

        Args:
            output: the tokens of the answer so far.
            new: how many of them came last: only these may end it.
            budget: the most tokens of thinking, None for any number.
        """
        if budget is not None and len(output) >= budget:
            return True
        length = len(self.end)
        if not length:
            return False
        first = max(length, len(output) - new + 1)
        return any(tuple(output[i - length : i]) == self.end for i in range(first, len(output) + 1))


def find_end(tokenizer: FamilyTokenizer, text: str | None) -> tuple[int, ...]:
    """Token ids of the text that ends the thinking.

    Args:
        tokenizer: of the family.
        text: as `--end-of-thinking` gives it; by default `</think>`, where it is a token.

    Raises:
        ElasticError: the text has no token.
    """
    if text is None:
        usual = tokenizer.tokenizer.token_to_id(USUAL)
        return () if usual is None else (usual,)
    ids = tuple(tokenizer.encode(text, special=False))
    if not ids:
        raise bad("--end-of-thinking", text, "text that has tokens")
    return ids


def read_budget(extra: Mapping[str, Any] | None) -> int | None:
    """The limit on thinking that a request brings in `vllm_xargs`.

    Raises:
        ElasticError: it is no positive number.
    """
    given = (extra or {}).get(BUDGET)
    return None if given is None else integer(BUDGET, given, 1, "a positive integer")


def check_ends(end: Sequence[int], budget: int | None, name: str) -> None:
    """Raise where nothing would ever end the thinking of a pair."""
    if not end and budget is None:
        raise ElasticError(
            f"model: {name!r} needs {BUDGET}, or a server that was started with --end-of-thinking: "
            "this family has no token that ends its thinking"
        )
