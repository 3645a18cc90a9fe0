# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a step measured, the file of a run's steps while it is written (`history` reads it), progress on the screen."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_elastic.history import lines_of, up_to
from nemo_elastic.io.terminal import in_terminal, say
from nemo_elastic.io.write import atomic_write
from nemo_elastic.router import Router

from .training import FamilyTraining


def step_facts_of(family: FamilyTraining, losses: Mapping[int, float]) -> dict[str, float]:
    """Losses of the budgets that the last step sampled, and of the router where it had a part in it."""
    names = [b.name for b in family.config.budgets]
    facts = {f"loss_{names[i]}": loss for i, loss in losses.items()}
    router, last = family.members.router, family.last_router
    if router is not None and last and not family.members.is_frozen:
        budget, routed = family.config.budgets[last["budget"]], last["routed"]
        shares = router.expected_cost(routed.probabilities, budget.name).tolist()
        used = {x.field: share for x, share in zip(budget.limits, shares, strict=True)}
        facts |= {f"cost_{budget.name}": max(used.values())}
        facts |= {"router_tau": last["tau"], "router_scale": last["scale"]}
        if len(used) > 1:
            facts |= {f"limit_{field}_{budget.name}": share for field, share in used.items()}
        entropies = Router.entropy(routed.probabilities)
        facts |= {f"entropy_{axis}": float(entropy) for axis, entropy in entropies.items()}
    return facts


def start_again(file: Path, step: int) -> tuple[int, float, int]:
    """Cut a run's file to what a checkpoint of `step` has seen; a new run's file is empty then.

    Returns:
        Tokens that have counted in the loss so far, seconds that the run has taken, and the step of its last
        validation, -1 for none.
    """
    lines = up_to(lines_of(file.read_bytes(), file.name, []), step) if file.exists() else []
    atomic_write(file, "".join(json.dumps(line) + "\n" for line in lines))
    validated = [line["step"] for line in lines if line["kind"] == "heldout"]
    tokens, seconds = (max((line.get(name, 0) for line in lines), default=0) for name in ("tokens", "seconds"))
    return tokens, seconds, validated[-1] if validated else -1


def append(file: Path, line: Mapping[str, Any]) -> None:
    """Write one line more."""
    with file.open("a") as f:
        f.write(json.dumps(dict(line)) + "\n")


#: seconds between lines in a terminal, where each takes the place of the one before, and elsewhere; there a line is
#: printed for each of so many parts of the steps, too
OFTEN, SELDOM, PARTS = 2.0, 60.0, 10


class Progress:
    """Prints how far a training is: a line that moves in a terminal, few lines elsewhere."""

    def __init__(self, label: str, total: int, first: int) -> None:
        self.label, self.total = label, total
        self._began = self._printed = time.monotonic()
        self._since: tuple[float, int] | None = None  # when the first step was over: ranking and search are none
        self._part, self._terminal = PARTS * first // max(1, total), in_terminal()
        self._losses: dict[str, float] = {}  # the last of each budget

    @property
    def seconds(self) -> float:
        """Since this process began."""
        return time.monotonic() - self._began

    def show(self, done: int, line: Mapping[str, Any], prints: bool) -> None:
        """Note a step's losses; print them where it is time to, on a rank that prints."""
        now = time.monotonic()
        began, first = self._since = self._since or (now, done)
        self._losses |= {k.removeprefix("loss_"): v for k, v in line.items() if k.startswith("loss_")}
        part, waited = PARTS * done // max(1, self.total), now - self._printed
        due = waited >= OFTEN if self._terminal else waited >= SELDOM or part > self._part
        if not prints or not (due or done == self.total):
            return
        self._printed, self._part = now, part
        left = "" if done == first else f"  {(now - began) / (done - first) * (self.total - done):4.0f} s left"
        losses = "  ".join(f"{name} {loss:.3f}" for name, loss in self._losses.items())
        losses = losses or f"loss {line.get('reduced_train_loss', float('nan')):.3f}"
        text = f"  {self.label}: step {done}/{self.total}  {losses}{left}"
        moves = self._terminal and done != self.total
        say(f"\r\x1b[K{text}" if self._terminal else text, end="" if moves else "\n")


class Metrics:
    """A run's file of metrics, and its progress on the screen. A run that goes on goes on in the same file.

    Args:
        file: JSON lines.
        label: of the phase, in every line.
        total, done: steps of the phase, and those that are done.
        writes: whether this rank writes and prints.

    Attributes:
        tokens: that have counted in the loss so far.
        validated: step of the last validation, -1 for none.
    """

    def __init__(self, file: Path, label: str, total: int, done: int, writes: bool) -> None:
        self.file, self.label, self.writes = file, label, writes
        self.tokens, self._before, self.validated = start_again(file, done) if writes else (0, 0.0, -1)
        self._progress = Progress(label, total, done)

    def step(self, done: int, facts: Mapping[str, float]) -> None:
        """Write what the last of so many steps measured."""
        self._write(done, {**facts, "kind": "step", "seconds": self._before + self._progress.seconds})
        self._progress.show(done, facts, self.writes)

    def heldout(self, done: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Write a validation's losses: figure -> member -> nats per token. One that measured nothing has no line."""
        self.validated = done
        if figures["losses"]:
            self._write(done, {"kind": "heldout", **figures})

    def _write(self, done: int, line: Mapping[str, Any]) -> None:
        if self.writes:
            append(self.file, {"phase": self.label, "step": done, "tokens": self.tokens, **line})
