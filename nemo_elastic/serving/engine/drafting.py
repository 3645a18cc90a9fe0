# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Self-speculation in vLLM: a member, run by our runtime on the same storage, drafts for larger ones.

What stays of a draft is what the larger member would have said, so answers are its own. How many tokens are drafted
follows from what stayed of a request's drafts before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nemo_elastic.nn.cache import Cache
from nemo_elastic.runtime.member_model import MemberModel
from nemo_elastic.runtime.speculation import DraftLength
from nemo_elastic.serving.arguments import Settings
from nemo_elastic.serving.hooks import SchedulerHook, WorkerHook

from .accepted import patch_cpu, remember_accepted

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class Drafting(SchedulerHook):
    """Says for which requests of a step a member drafts.

    Args:
        larger: members for which it does.
        hooks: those that may let another member go on with a request: as long as one may, nothing is drafted for it.
    """

    def __init__(self, larger: Iterable[str], hooks: Sequence[SchedulerHook]) -> None:
        self._larger, self._hooks = frozenset(larger), tuple(hooks)
        self._drafts = False

    def before_step(self, member: str | None, requests: Iterable[Any]) -> None:
        """Draft, but not beside requests that sample their tokens.

        vLLM 0.32 on a CPU then takes other tokens than the most likely ones for the greedy requests of the step.
        """
        of_member = list(requests)
        self._drafts = member in self._larger and all(
            r.sampling_params is not None and r.sampling_params.temperature == 0 for r in of_member
        )
        if member in self._larger and not self._drafts:
            for request in of_member:
                request.spec_token_ids = []

    def plan(self, output: Any, requests: Mapping[str, Any]) -> None:
        closed = (i for i in output.num_scheduled_tokens if not any(hook.is_open(i) for hook in self._hooks))
        output.drafting = list(closed) if self._drafts else []


class DraftingWorker(WorkerHook):
    """Lets the member that drafts know for whom, and vLLM's runner what stayed of drafts."""

    def before_step(self, scheduler_output: Any) -> None:
        runner = self.worker.model_runner
        remember_accepted(runner)
        if runner.device.type == "cpu":
            patch_cpu()
        wanted, gone = getattr(scheduler_output, "drafting", ()), scheduler_output.finished_req_ids
        runner.drafter.begin_step(runner.input_batch, wanted, gone)


@dataclass
class _Draft:
    """Of one request: what the draft has read, and how well it did."""

    cache: Cache
    length: DraftLength
    read: list[int] = field(default_factory=list)
    drafted: int = 0


class MemberProposer:
    """vLLM's `custom_class` proposer.

    Args:
        vllm_config: of the engine.
    """

    def __init__(self, vllm_config: VllmConfig) -> None:
        assert vllm_config.speculative_config is not None
        self._most = vllm_config.speculative_config.num_speculative_tokens
        self._name = Settings.read(vllm_config.additional_config).draft
        self._of: dict[str, _Draft] = {}
        self._batch: Any = None
        self._wanted: Collection[str] = ()

    def load_model(self, target: Any) -> None:
        """Take the draft from the family that is loaded."""
        self._model: MemberModel = target.family.select(self._name)
        self._cost = self._model.parameters / target.family.select(target.names[0]).parameters

    def begin_step(self, batch: Any, wanted: Collection[str], gone: Collection[str]) -> None:
        """Take in which batch a step's rows are, for which requests is drafted, and which have ended."""
        self._batch, self._wanted = batch, wanted
        for request_id in gone:
            self._of.pop(request_id, None)

    def propose(
        self, sampled: Sequence[Sequence[int]], lengths: np.ndarray, token_ids: np.ndarray, **_: Any
    ) -> list[list[int]]:
        """Draft tokens of each row.

        Args:
            sampled: new tokens of each row, none where it is still in its prompt.
            lengths: tokens of each row, with these.
            token_ids: of each row.
        """
        out: list[list[int]] = []
        for row, new in enumerate(sampled):
            request_id = self._batch.req_ids[row]
            wanted = bool(new) and request_id in self._wanted
            out.append(self._draft(request_id, token_ids[row, : lengths[row]].tolist(), len(new)) if wanted else [])
        return out

    @torch.inference_mode()
    def _draft(self, request_id: str, ids: list[int], new: int) -> list[int]:
        own = self._of.get(request_id)
        if own is None or ids[: len(own.read)] != own.read:
            own = self._of[request_id] = _Draft(self._model.init_cache(1), DraftLength(self._cost))
        own.length.learn(own.drafted, min(new - 1, own.drafted))
        own.drafted = own.length.next(self._most)
        if not own.drafted:
            return []
        said = [self._next(own.cache, ids[len(own.read) :])]
        own.read = ids
        own.cache.mark()
        while len(said) < own.drafted:
            said.append(self._next(own.cache, said[-1:]))
        own.cache.rewind([0])
        return said

    def _next(self, cache: Cache, ids: list[int]) -> int:
        return int(self._model(torch.tensor([ids]), cache=cache, last=True)[0, -1].argmax())
