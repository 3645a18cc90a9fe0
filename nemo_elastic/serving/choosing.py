# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The model `auto` in an engine: the smallest member reads a prompt, and signals of its logits choose the member."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from .answers import write_member
from .calibration import TAIL, Calibration, signals
from .names import Choice


class PromptTail(NamedTuple):
    """Tokens that a step reads of the end of a prompt without a chosen member; long prompts are read in several steps.

    Attributes:
        tail: the prompt's last tokens, which the signals are computed from.
        length: tokens of the prompt.
        before: tokens of the tail that earlier steps have read.
        now: tokens of the tail that this step reads.
    """

    tail: list[int]
    length: int
    before: int
    now: int

    @property
    def is_last(self) -> bool:
        """Whether the tail ends in this step."""
        return self.before + self.now == len(self.tail)


class Choosing:
    """Chooses the member that answers a request, from the signals of the worker."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._answering: dict[str, str] = {}  # request -> chosen member; until then, the one that reads the prompt
        self._costs: dict[str, float] = {}  # request without a chosen member -> its cost setting, between 0 and 1
        self._reported: dict[str, str] = {}  # request -> member that computed this step's outputs
        self._larger: dict[str, str] = {}  # request -> larger member, chosen in this step

    def take(self, request: Any, choice: Choice) -> None:
        if choice.cost is not None:
            self._answering[request.request_id] = choice.member
            if choice.cost not in (0, 1):  # 0 and 1 always choose the smallest and largest
                self._costs[request.request_id] = choice.cost

    def plan(self, output: Any, requests: Mapping[str, Any]) -> None:
        output.undecided = {}
        for request_id in self._costs.keys() & output.num_scheduled_tokens.keys():
            ids, stop = requests[request_id].prompt_token_ids, requests[request_id].num_computed_tokens
            if ids is not None and stop > (tail := max(0, len(ids) - TAIL)):
                start = max(tail, stop - output.num_scheduled_tokens[request_id])
                output.undecided[request_id] = PromptTail(list(ids[tail:]), len(ids), start - tail, stop - start)

    def before_update(self, result: Any, requests: Mapping[str, Any]) -> None:
        """Choose members; drop the sampled token where the smallest member is not chosen."""
        self._reported = dict(self._answering)
        for request_id, seen in getattr(result, "signals", {}).items():
            cost = self._costs.pop(request_id, None)
            if cost is None:  # the request was aborted
                continue
            at = int(self._calibration.choose(np.array([seen]), cost)[0])
            if at:
                self._larger[request_id] = self._calibration.members[at]
                result.sampled_token_ids[result.req_id_to_index[request_id]] = []
                if request_id in result.prompt_logprobs_dict:
                    result.prompt_logprobs_dict[request_id] = None

    def after_update(self, outputs: Iterable[Any], running: Callable[[str], Any]) -> Mapping[str, str]:
        reported, self._reported = self._reported, {}
        for output in outputs:
            if output.request_id in reported:
                write_member(output, reported[output.request_id])
        changed = {i: member for i, member in self._larger.items() if running(i) is not None}
        self._larger = {}
        self._answering |= changed
        return changed

    def forget(self, request_id: str) -> None:
        self._answering.pop(request_id, None)
        self._costs.pop(request_id, None)


class SignalReader:
    """Computes, on vLLM's worker, the signals of prompts whose last `TAIL` tokens were read."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self._signals: dict[str, list[float]] = {}  # request id -> signals of a prompt that ended in this step
        self.tails: dict[str, torch.Tensor] = {}  # request id -> hidden states [t, d] of the tail read so far

    @torch.inference_mode()
    def after_step(self, scheduler_output: Any) -> None:
        for gone in getattr(scheduler_output, "finished_req_ids", ()):
            self.tails.pop(gone, None)
        self._signals = {}
        undecided: Mapping[str, PromptTail] = getattr(scheduler_output, "undecided", {})
        for request_id, part in undecided.items():
            runner, model = self.worker.model_runner, self.worker.get_model()
            end = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id] + 1])
            hidden_td = model.hidden[end - part.now : end]
            if (earlier := self.tails.pop(request_id, None)) is not None:
                hidden_td = torch.cat([earlier[: part.before], hidden_td])
            if part.is_last:
                logits_tv = model.compute_logits(hidden_td)
                self._signals[request_id] = signals(logits_tv, part.tail[-len(hidden_td) :], part.length)
            else:
                self.tails[request_id] = hidden_td.clone()

    def write(self, output: Any) -> None:
        if self._signals:
            output.signals, self._signals = self._signals, {}
