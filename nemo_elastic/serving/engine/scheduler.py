# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's scheduler, with one member in each step; `pairs` and `choosing` may move a request to another member.

Three rules, which `tests/serving/engine/test_scheduler.py` holds:

- A member that has a running request is served at the latest after every other member with work was served once: with
  M members at work it waits for at most M - 1 steps, each of at most `--max-num-batched-tokens` tokens.
- Requests get a place and memory first come, first served over all members: from the turn in which one was left
  waiting on, no request that came after it starts before it, whosever it is.
- A member that only has requests for which there was no capacity is passed over until some is freed.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import RequestQueue, create_request_queue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from nemo_elastic.errors import ElasticError
from nemo_elastic.serving.arguments import Settings
from nemo_elastic.serving.choosing import Choosing
from nemo_elastic.serving.names import Choice, family_names
from nemo_elastic.serving.pairs import Pairs

logger = init_logger(f"vllm.{__name__}")  # vLLM shows only messages of its loggers
#: of a request that names no member of this family: it fails, and is never scheduled
_NOBODY = ""
#: status of requests that wait only for capacity
_READY = (RequestStatus.WAITING, RequestStatus.PREEMPTED)


class Turns:
    """Chooses the member of a step: a ring of members with work, and the known free capacity."""

    def __init__(self, ring: Sequence[str]) -> None:
        self._ring = tuple(ring)
        self._freed = 0  # how often a request gave its memory or its place back
        self._full: dict[str, int] = {}  # member whose turn started nothing -> capacity freed by then
        self.left: dict[str, Any] = {}  # members whose turn left requests waiting, and the first of these

    def next(self, running: Mapping[str, int], waiting: Mapping[str, int]) -> str | None:
        """Who is served in the next step, by the numbers of requests of each member; None where nobody has work."""
        able = self.at_work(running, waiting)
        return next((member for member in self._ring if member in able), None)

    def at_work(self, running: Mapping[str, int], waiting: Mapping[str, int]) -> list[str]:
        """Members whose turn may do something: one runs a request, or one waits for which there may be capacity.

        If no waiting member can start, all are tried again: they may wait for something else.
        """
        able = [m for m, n in running.items() if n]
        able += [m for m, n in waiting.items() if n and m not in able and self._full.get(m) != self._freed]
        return able or [m for m, n in waiting.items() if n]

    def served(self, member: str, worked: bool = True, left: Any = None) -> None:
        """This member had its turn, in which something was computed or nothing could start; `left` waits first now.

        If another member ran before, requests that waited for it may start.
        """
        if self.left.pop(member, left) is not left:
            self.freed()
        if left is not None:
            self.left[member] = left
        at = self._ring.index(member) + 1
        self._ring = self._ring[at:] + self._ring[:at]
        if not worked:
            self._full[member] = self._freed

    def freed(self) -> None:
        """A request gave its memory or its place back."""
        self._freed += 1

    def arrived(self, member: str) -> None:
        """Something new waits for this member."""
        self._full.pop(member, None)


class Waiting(RequestQueue):
    """Requests that wait, in one queue of vLLM's for each member; a step takes no time for those that it cannot start.

    In a step vLLM sees those of one member, and of these none that came after a request of another member which was
    left waiting. Between steps it adds and removes requests of all.
    """

    def __init__(self, made: Callable[[], RequestQueue], member_of: Callable[[Request], str]) -> None:
        self._made, self._member_of = made, member_of
        self._queues: dict[str, RequestQueue] = defaultdict(made)
        self._shown: RequestQueue | None = None
        self._refused: Request | None = None

    def counts(self) -> Counter[str]:
        """How many requests wait for each member."""
        return Counter({member: len(queue) for member, queue in self._queues.items() if member != _NOBODY})

    def first(self, member: str) -> Request | None:
        """The first request that waits for a member, and for nothing but capacity."""
        return _first_ready(self._queues[member])

    @contextmanager
    def only(self, member: str | None, refused: Request | None) -> Iterator[None]:
        """Show those of a member that came before a request of another that was left waiting, None for all of them."""
        self._shown, self._refused = self._made() if member is None else self._queues[member], refused
        try:
            yield
        finally:
            self._shown = self._refused = None

    def __bool__(self) -> bool:
        """Whether there is a request; in a step, whether one may start."""
        if self._shown is None or not self._shown or self._refused is None:
            return len(self) > 0
        if self._shown.peek_request() < self._refused:
            return True
        first = _first_ready(self._shown)  # earlier requests may wait for something else
        return first is not None and first < self._refused

    def __len__(self) -> int:
        return sum(map(len, self._queues.values())) if self._shown is None else len(self._shown)

    def __iter__(self) -> Iterator[Request]:
        return chain.from_iterable(self._queues.values()) if self._shown is None else iter(self._shown)

    def peek_request(self) -> Request:
        assert self._shown is not None
        return self._shown.peek_request()

    def pop_request(self) -> Request:
        assert self._shown is not None
        return self._shown.pop_request()

    def add_request(self, request: Request) -> None:
        self._queues[self._member_of(request)].add_request(request)

    def prepend_request(self, request: Request) -> None:
        self._queues[self._member_of(request)].prepend_request(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        self._queues[self._member_of(request)].remove_request(request)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        requests = set(requests)
        for queue in self._queues.values():
            queue.remove_requests(requests)


def _first_ready(queue: RequestQueue) -> Request | None:
    return next((request for request in queue if request.status in _READY), None)


class FamilyScheduler(Scheduler):
    """Every step is of one member; members take turns."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        settings = Settings.read(self.vllm_config.additional_config)
        names = family_names(self.vllm_config.model_config.model, settings.auto)
        assert names is not None
        self.names = names
        self.turns = Turns(names.shapes)
        self._member: dict[str, str] = {}  # of each request
        queue = partial(create_request_queue, self.policy)
        self.waiting, self.kv_holding_waiting = (Waiting(queue, self._member_of) for _ in range(2))
        self.choosing = None if names.calibration is None else Choosing(names.calibration)
        # each may move a request to another member
        self.changes = [Pairs(settings.end_ids), *([] if self.choosing is None else [self.choosing])]

    # ------------------------------------------------------------------------------------------- requests come and go

    def add_request(self, request: Request) -> None:
        """Add a request; its cache is separate from that of other members."""
        if request.request_id not in self.requests:
            try:
                choice = self.names.from_extra(request.sampling_params.extra_args if request.sampling_params else None)
                for change in self.changes:
                    change.take(request, choice)
            except ElasticError as exc:
                # A server's middleware has checked this. From elsewhere, one bad request must not end the engine.
                logger.warning("A request was refused: %s", exc)
                choice = Choice(_NOBODY)
                self.encoder_cache_mismatch_reqs.add(request.request_id)  # what vLLM ends with an error in this step
            self._hand_to(request, choice.member)
        super().add_request(request)

    def _hand_to(self, request: Request, member: str) -> None:
        """Let a member answer from here on. What another member has cached of the same text is not for it."""
        before = self._member.get(request.request_id)
        salt = (request.cache_salt or "").removeprefix(f"{before}|" if before is not None else "")
        self._member[request.request_id] = member
        request.cache_salt = f"{member}|{salt}"
        request.block_hashes.clear()
        request.update_block_hashes()
        self.turns.arrived(member)

    def _free_request(self, request: Request, *more: Any, **named: Any) -> Any:
        self.turns.freed()
        self._member.pop(request.request_id, None)
        for change in self.changes:
            change.forget(request.request_id)
        return super()._free_request(request, *more, **named)

    def _preempt_request(self, request: Request, *more: Any, **named: Any) -> None:
        self.turns.freed()
        super()._preempt_request(request, *more, **named)

    # ------------------------------------------------------------------------------------------------------ turns

    def schedule(self, *args: Any, **named: Any) -> SchedulerOutput:
        """One step, of the member whose turn it is. It may be empty; then the next one is another member's."""
        running = Counter(map(self._member_of, self.running))
        member = self.turns.next(running, self.waiting.counts() + self.kv_holding_waiting.counts())
        with self._only(member):
            output = super().schedule(*args, **named)
        if member is not None:
            self.turns.served(member, output.total_num_scheduled_tokens > 0, self.waiting.first(member))
        output.member = member
        if self.choosing is not None:
            self.choosing.plan(output, self.requests)
        return output

    def _member_of(self, request: Request) -> str:
        return self._member[request.request_id]

    @contextmanager
    def _only(self, member: str | None) -> Iterator[None]:
        """Show vLLM's scheduler only one member's requests, and the places that other members leave."""
        others = [r for r in self.running if self._member_of(r) != member]
        places = self.max_num_active_reqs
        self.running = [r for r in self.running if self._member_of(r) == member]
        self.max_num_active_reqs = places - len(others)
        left = (self.waiting.first(other) for other in self.turns.left if other != member)
        refused = min((r for r in left if r is not None), default=None)
        try:
            with self.waiting.only(member, refused), self.kv_holding_waiting.only(member, None):
                yield
        finally:
            self.max_num_active_reqs = places
            self.running = others + self.running

    # --------------------------------------------------------------------------------------------------- results

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> Any:
        """Take a step's tokens in; afterwards a request may move to another member, which prefills it again."""
        for change in self.changes:
            change.before_update(model_runner_output, self.requests)
        out = super().update_from_output(scheduler_output, model_runner_output)
        outputs = [output for client in out.values() for output in client.outputs]
        for change in self.changes:
            for request_id, member in change.after_update(outputs, self._running).items():
                request = self.requests[request_id]
                self.running.remove(request)
                self._hand_to(request, member)  # in whose queue it then waits
                self._preempt_request(request, time.monotonic(), drop_stale_output=True)
        return out

    def _running(self, request_id: str) -> Request | None:
        request = self.requests.get(request_id)
        return request if request is not None and request.status == RequestStatus.RUNNING else None
