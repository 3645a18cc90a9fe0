# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's scheduler, with one member in each step; `turns` has the rules."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import lt
from typing import Any

import numpy as np
from vllm.logger import init_logger
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import RequestQueue, create_request_queue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime.auto.signals import TAIL
from nemo_elastic.serving.answers import tell_member
from nemo_elastic.serving.counters import Work
from nemo_elastic.serving.names import Choice, family_names
from nemo_elastic.serving.settings import Settings
from nemo_elastic.serving.thinking import Thinking, read_budget
from nemo_elastic.serving.turns import Room, Turns, admissible, at_work, left_waiting

from .worker import TailPart

logger = init_logger(f"vllm.{__name__}")  # vLLM writes what its own loggers say
#: of a request that names no member of this family: it fails, and is never scheduled
_NOBODY = ""
#: what a request waits for is room, and nothing else
_READY = (RequestStatus.WAITING, RequestStatus.PREEMPTED)


class FamilyScheduler(Scheduler):
    """Every step is of one member; members take turns. A pair's request changes its member when its thinking ends.

    One for `auto` is read by the smallest member; what that makes of it says who answers, which may be itself.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        settings = Settings.read(self.vllm_config.additional_config)
        names = family_names(self.vllm_config.model_config.model, settings.auto)
        assert names is not None
        self.names = names
        self.thinking = Thinking(settings.end_ids)
        self.turns, self.room, self.work = Turns(names.shapes), Room(), Work()
        self._choices: dict[str, Choice] = {}  # of pairs that still think
        self._budgets: dict[str, int | None] = {}
        self._autos: set[str] = set()  # those of which the server says who answers
        self._costs: dict[str, float] = {}  # of those that nobody has chosen a member for
        self._member: dict[str, str] = {}
        at = names.members.index(settings.draft) if settings.draft is not None else 0
        self._drafted_for = frozenset(names.members[:at])
        self._tried: set[Request] = set()  # had their member's turn, and were left waiting

    # ------------------------------------------------------------------------------------------- requests come and go

    def add_request(self, request: Request) -> None:
        """Take a request in; its cache is kept apart from that of other members."""
        if request.request_id not in self.requests:
            try:
                extra = request.sampling_params.extra_args if request.sampling_params else None
                choice, budget = self.names.from_extra(extra), read_budget(extra)
            except ElasticError as exc:
                # A server's front door has checked this. From elsewhere, one bad request must not end the engine.
                logger.warning("A request was refused: %s", exc)
                choice, budget = Choice(_NOBODY), None
                self.grammar_compile_error_reqs.add(request.request_id)
            self._hand_to(request, self._first(request, choice))
            if choice.then is not None:
                self._choices[request.request_id], self._budgets[request.request_id] = choice, budget
        super().add_request(request)

    def _first(self, request: Request, choice: Choice) -> str:
        """Who reads a request. Nothing is to be chosen at the dial's ends."""
        if choice.cost is None:
            return choice.member
        self._autos.add(request.request_id)
        if choice.cost in (0, 1):
            return self.names.largest if choice.cost else choice.member
        self._costs[request.request_id] = choice.cost
        return choice.member

    def _hand_to(self, request: Request, member: str) -> None:
        """Let a member answer from here on. What another member has cached of the same text is not for it."""
        before = self._member.get(request.request_id)
        salt = (request.cache_salt or "").removeprefix(f"{before}|" if before is not None else "")
        self._member[request.request_id] = member
        request.cache_salt = f"{member}|{salt}"
        request.block_hashes.clear()
        request.update_block_hashes()
        self.room.forget(member)

    def _free_request(self, request: Request, *more: Any, **named: Any) -> Any:
        self.room.made()
        for kept in (self._member, self._choices, self._budgets, self._costs):
            kept.pop(request.request_id, None)
        self._tried.discard(request)
        self._autos.discard(request.request_id)
        return super()._free_request(request, *more, **named)

    def _preempt_request(self, request: Request, *more: Any, **named: Any) -> None:
        self.room.made()
        super()._preempt_request(request, *more, **named)

    # ------------------------------------------------------------------------------------------------------ turns

    def schedule(self, *args: Any, **named: Any) -> SchedulerOutput:
        """One step, of the member whose turn it is. It may be empty; then the next one is another member's."""
        self._tried = left_waiting(self._tried, lambda r: r.status in _READY, self.room)
        running, waiting = self._count(self.running), self._count([*self.waiting, *self.kv_holding_waiting])
        member = self.turns.next(at_work(running, waiting, self.room))
        with self._only(member):
            drafting = self._may_draft(member)
            output = super().schedule(*args, **named)
            self._tried.update(r for r in self.waiting if r.status in _READY)
        if member is not None:
            self.turns.served(member)
            if output.total_num_scheduled_tokens:
                self.work.add("steps", member, 1)
            else:
                self.room.none_for(member)
        output.member, output.undecided = member, self._undecided(output)
        output.drafting = self._drafting(output) if drafting else []
        return output

    def _may_draft(self, member: str | None) -> bool:
        """Whether a member is drafted for in this step: not beside requests that draw their tokens.

        vLLM 0.32 on a CPU then takes other tokens than the most likely ones for the greedy requests of the step.
        """
        if member not in self._drafted_for:
            return False
        if all(_is_greedy(r) for r in (*self.running, *self.waiting)):
            return True
        for request in self.running:
            request.spec_token_ids = []
        return False

    def _drafting(self, output: SchedulerOutput) -> list[str]:
        """Requests for which a member drafts: not while it is open who answers, nor while thoughts may end."""
        return [i for i in output.num_scheduled_tokens if i not in self._costs and i not in self._choices]

    def _undecided(self, output: SchedulerOutput) -> dict[str, TailPart]:
        """Prompts of `auto` of whose tail this step reads something."""
        found = {}
        for request_id in self._costs.keys() & output.num_scheduled_tokens.keys():
            request = self.requests[request_id]
            ids, stop = request.prompt_token_ids, request.num_computed_tokens
            if ids is not None and stop > (tail := max(0, len(ids) - TAIL)):
                start = max(tail, stop - output.num_scheduled_tokens[request_id])
                found[request_id] = TailPart(list(ids[tail:]), len(ids), start - tail, stop - start)
        return found

    def _count(self, requests: Iterable[Request]) -> Counter[str]:
        found = Counter(self._member[r.request_id] for r in requests)
        found.pop(_NOBODY, None)
        return found

    @contextmanager
    def _only(self, member: str | None) -> Iterator[None]:
        """Let vLLM's scheduler see one member's requests, and those places that the others leave."""
        others = [r for r in self.running if self._member[r.request_id] != member]
        places = self.max_num_active_reqs
        self.running = [r for r in self.running if self._member[r.request_id] == member]
        self.max_num_active_reqs = places - len(others)
        refused = min((r for r in self._tried if self._member[r.request_id] != member), default=None)
        self.waiting, waiting = self._split(self.waiting, member, refused)
        self.kv_holding_waiting, holding = self._split(self.kv_holding_waiting, member, None)
        try:
            yield
        finally:
            self.max_num_active_reqs = places
            self.running = others + self.running
            for request in waiting:
                self.waiting.add_request(request)
            for request in holding:
                self.kv_holding_waiting.add_request(request)

    def _split(
        self, queue: RequestQueue, member: str | None, refused: Request | None
    ) -> tuple[RequestQueue, list[Request]]:
        """A queue of what a member may start, and what stays behind."""
        mine = [r for r in queue if self._member[r.request_id] == member]
        may, later = admissible(mine, refused, lt)
        seen = create_request_queue(self.policy)
        for request in may:
            seen.add_request(request)
        return seen, [*later, *(r for r in queue if self._member[r.request_id] != member)]

    # ------------------------------------------------------------------------------------------- pairs, and auto

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> Any:
        """Take a step's tokens in. Behind a pair's thoughts, or a prompt of `auto`, another member may go on."""
        climbing = self._climbing(model_runner_output)
        before = {i: len(r.output_token_ids) for i in self._choices if (r := self.requests.get(i)) is not None}
        answering = {i: self._member[i] for i in self._autos}
        out = super().update_from_output(scheduler_output, model_runner_output)
        for output in (output for client in out.values() for output in client.outputs):
            if output.request_id in answering:
                tell_member(output, answering[output.request_id])
        for request_id, length in before.items():
            request = self.requests.get(request_id)
            if request is None or request.status != RequestStatus.RUNNING:
                continue
            new = len(request.output_token_ids) - length
            if new and self.thinking.over(request.output_token_ids, new, self._budgets[request_id]):
                self._budgets.pop(request_id)
                choice = self._choices.pop(request_id)
                assert choice.then is not None
                self._give(request, choice.then)
        for request_id, member in climbing.items():
            request = self.requests.get(request_id)
            if request is not None and request.status == RequestStatus.RUNNING:
                self._give(request, member)
        return out

    def _climbing(self, output: ModelRunnerOutput) -> dict[str, str]:
        """Requests of `auto` for which the smallest member is not enough, and who answers; what it said is dropped."""
        found = {}
        for request_id, signals in getattr(output, "signals", {}).items():
            cost = self._costs.pop(request_id, None)
            if cost is None or self.names.calibration is None:  # it is gone
                continue
            at = self.names.calibration.choose(np.array([signals]), cost)[0]
            member = self.names.calibration.members[at]
            if member != self._member[request_id]:
                found[request_id] = member
                output.sampled_token_ids[output.req_id_to_index[request_id]] = []
                if request_id in output.prompt_logprobs_dict:
                    output.prompt_logprobs_dict[request_id] = None
        return found

    def _give(self, request: Request, member: str) -> None:
        """Give a request to another member, which reads everything again."""
        self.running.remove(request)
        self._preempt_request(request, time.monotonic(), drop_stale_output=True)
        self._hand_to(request, member)

    # ------------------------------------------------------------------------------------------------------- figures

    def _update_request_with_output(self, request: Request, new_token_ids: list[int], *more: Any, **named: Any) -> Any:
        new_token_ids, stopped = super()._update_request_with_output(request, new_token_ids, *more, **named)
        self.work.add("tokens", self._member[request.request_id], len(new_token_ids))
        return new_token_ids, stopped

    def make_stats(self, *args: Any, **named: Any) -> Any:
        """vLLM's statistics, and in a field for adapters, which a family has none of, what members did."""
        stats = super().make_stats(*args, **named)
        if stats is not None:
            stats.running_lora_adapters = self.work.taken()
        return stats


def _is_greedy(request: Request) -> bool:
    return request.sampling_params is not None and request.sampling_params.temperature == 0
