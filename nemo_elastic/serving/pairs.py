# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs: one member thinks, another answers. The thinking ends by tokens that say so, or after a number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.values import integer

from .names import Choice

if TYPE_CHECKING:
    from nemo_elastic.formats.tokenizer import FamilyTokenizer

#: how models of the field end their thoughts
THINK_END = "</think>"
#: the field of `vllm_xargs`, named like vLLM's limit
BUDGET = "thinking_token_budget"


class Pairs:
    """Moves a request to the second member of a pair where the first one's thinking ends: after the tokens `end`."""

    def __init__(self, end: Sequence[int]) -> None:
        self._end = tuple(end)
        self._thinking: dict[str, tuple[str, int | None]] = {}  # request -> second member, most tokens of thinking
        self._lengths: dict[str, int] = {}

    def take(self, request: Any, choice: Choice) -> None:
        """A request has come; `choice.member` reads it first."""
        budget = read_budget(request.sampling_params.extra_args if request.sampling_params else None)
        if choice.then is not None:
            self._thinking[request.request_id] = choice.then, budget

    def before_update(self, result: Any, requests: Mapping[str, Any]) -> None:
        """A step's result has come, and the scheduler has taken nothing of it in."""
        self._lengths = {i: len(requests[i].output_token_ids) for i in self._thinking if i in requests}

    def after_update(self, outputs: Iterable[Any], running: Callable[[str], Any]) -> Mapping[str, str]:
        """Requests that move to another member after a step, which prefills them again: id -> its name.

        `running` gives vLLM's record of a request by its id, None where the request does not run.
        """
        lengths, self._lengths, changed = self._lengths, {}, {}
        for request_id, length in lengths.items():
            if (request := running(request_id)) is None:
                continue
            then, budget = self._thinking[request_id]
            new = len(request.output_token_ids) - length
            if new and is_over(self._end, request.output_token_ids, new, budget):
                changed[request_id] = then
                del self._thinking[request_id]
        return changed

    def forget(self, request_id: str) -> None:
        self._thinking.pop(request_id, None)


def is_over(end: tuple[int, ...], output: Sequence[int], new: int, budget: int | None) -> bool:
    """Whether the thinking has ended: by `end`, of whose tokens the last is a `new` one, or by its budget."""
    if budget is not None and len(output) >= budget:
        return True
    first = max(len(end), len(output) - new + 1)
    return bool(end) and any(tuple(output[i - len(end) : i]) == end for i in range(first, len(output) + 1))


def find_end(tokenizer: FamilyTokenizer) -> tuple[int, ...]:
    """The token id that ends the thinking: that of `</think>`, where it is a token."""
    think_end = tokenizer.tokenizer.token_to_id(THINK_END)
    return () if think_end is None else (think_end,)


def read_budget(extra: Mapping[str, Any] | None) -> int | None:
    """The limit on thinking that a request brings in `vllm_xargs`."""
    given = (extra or {}).get(BUDGET)
    return None if given is None else integer(BUDGET, given, 1, "a positive integer")


def check_ends(end: Sequence[int], budget: int | None, name: str) -> None:
    """Check that something ends the thinking of a pair."""
    if not end and budget is None:
        raise ElasticError(
            f"model: {name!r} needs {BUDGET}: this family has no token {THINK_END}, which would end its thinking"
        )
