# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `apply_elastic` does with a host's own recipes; and a block for any of their parents."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mlp import FFN
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.rehearsal.small import ON_CPU, narrow
from tests.parallel import forks

#: where nothing is: what of a teacher can be seen is seen when the run starts
TEACHER = "/checkpoints/parent"
#: of steps at small scale: tokens of a sequence, sequences, tokens of the vocabulary
LENGTH, BATCH, VOCAB = 64, 4, 512
#: settings in which recipes of one kind differ, and that steps at small scale make alike or small in any case
SIZES = (
    r"model\.(config\.)?(hidden_size|ffn_hidden_size|mamba_\w+|num_\w+|kv_channels|hybrid_\w+)"
    r"|model\.elastic.*|optimizer_\w+_provider.*"
)
ACCEPTED, REFUSED, HUB = "accepted", "refused", "needs a hub"


@dataclass(frozen=True)
class Outcome:
    """What became of a recipe.

    Attributes:
        recipe: its name.
        verdict: one of the words above.
        line: that refuses it, or names what it asks a hub for.
        changes: setting -> what became of it; warnings: lines.
    """

    recipe: str
    verdict: str
    line: str = ""
    changes: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def block_of(parent: Parent) -> dict[str, Any]:
    """A block with all defaults, for any parent: two members, and the widths of the residual stream and the FFNs."""
    axes = {HIDDEN: 64, **({EXPERTS: 8, EXPERT_FFN: 64} if parent.has(EXPERTS) else {FFN: 512})}
    sizes = {name: parent.size(name) for name in axes}
    return {
        "budgets": [{"name": "full"}, {"name": "small", "ratio": 0.8}],
        "axes": {name: {"choices": [n, *[n * k // 4 // axes[name] * axes[name] for k in (3, 2)]]}
                 for name, n in sizes.items()},
    }  # fmt: skip


def in_small(parent: Parent) -> tuple[Parent, ElasticConfig]:
    """A parent's first layers, as many as it takes to have one of each kind, narrow; and a block for them."""
    ends = max(parent.pattern.index(symbol) for symbol in set(parent.pattern))
    few = {"importance": {"samples": 4, "depth_samples": 4}, "search": {"candidates": 4, "tokens": 256}}
    first = replace(parent, pattern=parent.pattern[: ends + 1])
    return narrow(first, ElasticConfig.of(block_of(parent) | few), ON_CPU)


def outcome(name: str, make: Callable[[], Any], apply: Callable[[Any], str], hub: type[Exception]) -> Outcome:
    """Build a recipe, and let `apply` make it elastic: it returns the changes as they are printed.

    Args:
        name: of the recipe.
        make: builds it.
        apply: of the host.
        hub: what `make` raises where it would ask a hub.
    """
    try:
        recipe = make()
    except hub as error:
        (asked,) = set(re.findall(r"nvidia/[\w.-]+\w", str(error)))
        return Outcome(name, HUB, asked)
    try:
        answer = apply(recipe)
    except ElasticError as error:
        return Outcome(name, REFUSED, re.sub(r"\(target_modules=.* is not", "(…) is not", str(error)))
    changes, _, warned = answer.replace(f"{os.getcwd()}/", "").partition("\napply_elastic warns:\n")
    settings = dict(line.strip().split(": ", 1) for line in changes.splitlines()[1:] if " -> " in line)
    return Outcome(name, ACCEPTED, "", settings, [line.strip() for line in warned.splitlines()])


def run_steps(
    place: Path,
    step: Callable[[str, Path], Any],
    settings: Mapping[str, Mapping[str, Any]],
    seconds: float = forks.HANG,
) -> None:
    """Let `step` run for each recipe in a fork, once for those that it configures alike; into PLACE/steps.json.

    Args:
        place: folder; text is made in it.
        step: called with a recipe's name and the folder.
        settings: of each recipe as `step` configures it.
        seconds: that one may take.
    """
    import logging
    import warnings

    import torch

    from nemo_elastic.data.build import build_data
    from tests.texts import FEW, library_text

    def data() -> None:
        build_data(place / "data", [library_text(place / "text", FEW)], vocab=VOCAB, held_out_problems=4)

    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    forks.run(place / "log" / "data", 1, data)
    alike: dict[Any, str] = {}
    seen: dict[str, Any] = {}
    for name, own in settings.items():
        first = alike.setdefault(frozenset((k, v) for k, v in own.items() if not re.fullmatch(SIZES, k)), name)
        if first == name:
            began = time.monotonic()
            ran = forks.start(place / "log" / name, 1, step, name, place)
            (code,) = ran.wait(seconds)
            seen[name] = ran.result() if code == 0 else {"code": code, "said": ran.said()[-3000:]}
            seen[name]["seconds"] = time.monotonic() - began
        else:
            seen[name] = {"as": first}
    (place / "steps.json").write_text(json.dumps(seen))


def check_steps(place: Path, accepted: Sequence[str], steps: int) -> dict[str, Any]:
    """Every accepted recipe has trained: finite losses of all members, a rate, a checkpoint that is a family."""
    actual = json.loads((place / "steps.json").read_text())
    assert sorted(actual) == sorted(accepted)
    for name, one in actual.items():
        if "as" in one:
            assert "as" not in actual[one["as"]]
            continue
        assert "code" not in one, f"{name}: {one}"
        lines = [line for line in one["lines"] if line["kind"] == "step"]
        assert [line["step"] for line in lines] == list(range(1, steps + 1)), name
        for line in lines:  # of the whole model, which is its teacher's at first: nothing, to rounding
            assert -1e-6 < line["loss_full"] < line["loss_small"] < 10 and 0 < line["grad_norm"] < 1e3, (name, line)
            assert line["lr"] > 0
        family = open_source(one["checkpoints"]).family
        assert family is not None and [member.name for member in family] == ["full", "small"], name
    return actual
