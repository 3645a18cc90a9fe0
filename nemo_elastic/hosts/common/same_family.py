# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a run is of the family of the checkpoint that it starts from: which settings of the block may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, inside, shown

#: settings that say how the rest of a run trains: a resumed run takes the new ones and says so
STEERING = ("sampling", "nonfinite", "distill.temperature", "distill.terms", "distill.chunk_tokens",
            "distill.teacher_precision")  # fmt: skip
#: what a later stage shares with the one before, whose router and members it takes
FAMILY = ("budgets", "axes", "shapes", "router")
#: what the first stage shares with the ranking, whose order, members and router it takes
RANKED = ("budgets", "axes", "importance", "ranking", "search", "shapes", "seed", "router.hidden",
          "router.init_std")  # fmt: skip


def check_same_family(
    old: Mapping[str, Any] | None, new: ElasticConfig, where: Any, stage: int, resumed: bool
) -> list[str]:
    """A line for each setting of a run's block that has another value than in the checkpoint `where`.

    Args:
        old: the checkpoint's block as it was written: fields that are newer have their defaults.
        new: the run's.
        stage: 0 is the ranking.
        resumed: the checkpoint is the run's own.
    """
    if old is None:
        raise ElasticError(f"resume: {where} is not elastic; give the elastic run another log directory")
    with inside(f"resume: {where}"):
        before = ElasticConfig.stored(old)
    changes = list(differences(before.to_dict(), new.to_dict()))
    refused = [text for name, text in changes if not may_change(name, stage, resumed)]
    if refused:
        raise ElasticError(f"resume: {where} belongs to another elastic block: {'; '.join(refused)}; "
                           "use the old values or another log directory")  # fmt: skip
    return [f"{text}, from now on" for _, text in changes]


def other_steps(field: str, before: Any, now: int, config: ElasticConfig, stage: int, reached: int) -> Iterator[str]:
    """A line where a resumed run has other steps than its checkpoint; in stage 1 the router's freeze moves with them.

    Args:
        field: the host's, of the steps.
        before, now: steps of the stage in the checkpoint, and of the run.
        config, stage: of the run.
        reached: steps after which the checkpoint was saved.
    """
    if type(before) is not int or before == now:
        return
    old, new = (config.freeze_step(steps) for steps in (before, now))
    moves = stage == 1 and reached < old != new
    yield f"{field}: {before} -> {now}, from now on" + (f"; shapes freeze at step {new}, not {old}" if moves else "")


def may_change(name: str, stage: int, resumed: bool) -> bool:
    """Whether a setting, by its dotted name, may have another value in a stage from here on."""
    steers = stage > 0 and resumed
    known = STEERING if steers else FAMILY if stage > 1 else RANKED if stage == 1 else (*RANKED, "data")
    among = any(name == one or name.startswith(f"{one}.") for one in known)
    return among if steers else not among and name != "router"


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, "elastic.name: old -> new") of everything that differs; what one side lacks is null there."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield name, f"elastic.{name}: {shown(old)} -> {shown(new)}"
