# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of several tokens, of which some stay, are what one token after the other gives; and the count is not lost."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.serving.engine.accepted import conv_update, remember_accepted, scan_update

DRAFTED, REQUESTS, LENGTH = 3, 3, 12
CHANNELS, KERNEL = 6, 4
HEADS, WIDTH, GROUPS, STATE = 4, 2, 2, 3


def steps() -> list[list[tuple[int, int]]]:
    """Of each step, what each request reads of its tokens and how many of those stay: (number, stay)."""
    dice, out, done = random.Random(0), [], [0] * REQUESTS
    while min(done) < LENGTH - DRAFTED - 1:
        step = []
        for i in range(REQUESTS):
            number = dice.randint(1, DRAFTED + 1) if done[i] < LENGTH - DRAFTED - 1 else 1
            stay = dice.randint(1, number) if done[i] < LENGTH - DRAFTED - 1 else 0
            step.append((number, stay))
            done[i] += stay
        out.append(step)
    return out


def run(update: Any, right: torch.Tensor, wrong: torch.Tensor) -> list[torch.Tensor]:
    """Feed every request its tokens, others where a draft does not stay; what comes out for those that stay."""
    got: list[list[torch.Tensor]] = [[] for _ in range(REQUESTS)]
    done, accepted = [0] * REQUESTS, [1] * REQUESTS
    for step in steps():
        fed, starts = [], [0]
        for i, (number, stay) in enumerate(step):
            own = right[i, done[i] : done[i] + number].clone()
            own[stay:] = wrong[i, done[i] + stay : done[i] + number]
            fed.append(own)
            starts.append(starts[-1] + number)
        out = update(torch.cat(fed), torch.tensor(starts, dtype=torch.int32), torch.tensor(accepted))
        for i, (_, stay) in enumerate(step):
            got[i] += list(out[starts[i] : starts[i] + stay])
            done[i] += stay
            accepted[i] = max(stay, 1)
            if not stay:  # it has ended, and is fed what nobody reads
                accepted[i] = 1
    return [torch.stack(rows) for rows in got]


def tokens(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(1)
    return torch.randn(REQUESTS, LENGTH, *shape, generator=make), torch.randn(REQUESTS, LENGTH, *shape, generator=make)


def test_the_convolution() -> None:
    make = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(CHANNELS, KERNEL, generator=make), torch.randn(CHANNELS, generator=make)
    past = torch.randn(REQUESTS, CHANNELS, KERNEL - 1, generator=make)
    state = torch.zeros(9, CHANNELS, KERNEL - 1 + DRAFTED)
    slots = torch.tensor([[5, 6], [2, 3], [8, 1]])
    state[slots[:, 0], :, : KERNEL - 1] = past
    right, wrong = tokens(CHANNELS)

    def update(x: torch.Tensor, starts: torch.Tensor, accepted: torch.Tensor) -> torch.Tensor:
        return conv_update(
            x, state, weight, bias, "silu", conv_state_indices=slots, num_accepted_tokens=accepted,
            query_start_loc=starts, max_query_len=4,
        )  # fmt: skip

    whole = torch.cat([past, right.transpose(1, 2)], 2)
    wanted = F.silu(F.conv1d(whole, weight[:, None], bias, groups=CHANNELS)).transpose(1, 2)
    for i, rows in enumerate(run(update, right, wrong)):
        assert len(rows) > 4
        torch.testing.assert_close(rows, wanted[i, : len(rows)])


def test_the_scan() -> None:
    make = torch.Generator().manual_seed(0)
    a, d = -torch.rand(HEADS, 1, 1, generator=make), torch.randn(HEADS, 1, generator=make)
    dt_bias = torch.randn(HEADS, 1, generator=make)
    past = torch.randn(REQUESTS, HEADS, WIDTH, STATE, generator=make)
    slots = torch.arange(1, 1 + REQUESTS * (1 + DRAFTED)).view(REQUESTS, 1 + DRAFTED)
    state = torch.zeros(20, HEADS, WIDTH, STATE)
    state[slots[:, 0]] = past
    sizes = (HEADS * WIDTH, HEADS, GROUPS * STATE, GROUPS * STATE)
    right, wrong = tokens(sum(sizes))

    def split(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        own, dt, b, c = x.split(sizes, -1)
        dt = dt[..., None].expand(-1, HEADS, WIDTH)
        return own.view(-1, HEADS, WIDTH), dt, b.view(-1, GROUPS, STATE), c.view(-1, GROUPS, STATE)

    def update(x: torch.Tensor, starts: torch.Tensor, accepted: torch.Tensor) -> torch.Tensor:
        own, dt, b, c = split(x)
        out = torch.empty_like(own)
        scan_update(
            state, own, dt, a.expand(-1, WIDTH, STATE), b, c, d.expand(-1, WIDTH), dt_bias.expand(-1, WIDTH),
            dt_softplus=True, state_batch_indices=slots, num_accepted_tokens=accepted, cu_seqlens=starts, out=out,
        )  # fmt: skip
        return out.flatten(1)

    for i, rows in enumerate(run(update, right, wrong)):
        own, dt, b, c = split(right[i])
        moved, wanted = past[i], []
        for t in range(len(rows)):
            step = F.softplus(dt[t] + dt_bias)[..., None]
            of = torch.arange(HEADS) // (HEADS // GROUPS)
            moved = moved * torch.exp(step * a) + step * own[t][..., None] * b[t][of][:, None]
            wanted.append(((moved * c[t][of][:, None]).sum(-1) + d * own[t]).flatten())
        torch.testing.assert_close(rows, torch.stack(wanted))


class Runner:
    """A runner that forgets, as vLLM's does, what a request that left its batch had."""

    def __init__(self) -> None:
        self.input_batch = SimpleNamespace(req_id_to_index={}, num_accepted_tokens_cpu=torch.ones(4, dtype=torch.int))
        self.num_accepted_tokens_event = SimpleNamespace(synchronize=lambda: None)

    def _update_states(self, step: Any) -> str:
        self.input_batch.req_id_to_index = {request: row for row, request in enumerate(step.rows)}
        self.input_batch.num_accepted_tokens_cpu[:] = 1
        return "done"

    def _update_states_after_model_execute(self, counts: list[int]) -> None:
        self.input_batch.num_accepted_tokens_cpu[: len(counts)] = torch.tensor(counts, dtype=torch.int)


@pytest.mark.parametrize("times", [1, 2])
def test_how_many_stayed_is_known_after_another_members_turn(times: int) -> None:
    runner = Runner()
    for _ in range(times):  # asked for before every step
        remember_accepted(runner)
    for rows, before, after in (
        (["a", "b"], [1, 1], [3, 2]),
        (["c"], [1], [4]),
        (["b", "a"], [2, 3], [1, 1]),
        (["c", "a"], [4, 1], [2, 2]),
    ):
        assert runner._update_states(SimpleNamespace(rows=rows, finished_req_ids=())) == "done"
        assert runner.input_batch.num_accepted_tokens_cpu[: len(rows)].tolist() == before
        runner._update_states_after_model_execute(after)
    runner._update_states(SimpleNamespace(rows=["a", "c"], finished_req_ids={"a"}))
    assert runner.input_batch.num_accepted_tokens_cpu[:2].tolist() == [1, 2], "another request may have its name"
