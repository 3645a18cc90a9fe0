# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's evaluation: every member, its three controls, and answers to held-out problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .demo_settings import STAGE2, Settings

#: context at which all models are compared: that of stage 2
LENGTH = STAGE2[1]


def evaluate(
    data: Path, family: Path, sorted_parent: Path, parent: Path, settings: Settings, tell: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per member, the parent first: see the keys in `report.run.MemberResult`.

    Args:
        data: data folder.
        family: trained family folder; sorted_parent: the same before training; parent: unsorted HF folder.
        settings: how many tokens and problems.
        tell: progress lines.
    """
    from nemo_elastic.core.cost import memory, parameters
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.evaluation.accuracy import answer_accuracy
    from nemo_elastic.evaluation.scoring import perplexity
    from nemo_elastic.io.read import read_json
    from nemo_elastic.runtime import load_family
    from nemo_elastic.slicing.card import served_as

    from .controls import controls

    folder = DataFolder.open(data)
    tokens, problems = folder.tokens("val"), folder.problems()[: settings.problems]
    trained, before, unsorted = load_family(family), load_family(sorted_parent), load_family(parent)
    rows = controls(
        trained,
        before,
        unsorted,
        lambda m: perplexity(m, tokens, LENGTH, max_tokens=settings.eval_tokens).nats,
        lambda done, total: tell(f"held-out loss: {done}/{total} models"),
    )
    out = []
    whole = parameters(trained.parent, trained.held)
    spec = served_as(read_json(family / "config.json"))
    models = [("parent", before.select(None), None), *((r.member, trained.select(r.member), r) for r in rows)]
    for name, model, row in models:
        answers = answer_accuracy(model, problems, folder.tokenizer_dir)
        tell(f"answers of {name}: {answers.correct}/{answers.total}")
        loss = rows[0].parent if row is None else row.trained
        out.append(
            {
                "name": name,
                "parameters": model.parameters,
                "ratio": model.parameters / whole,
                "memory": asdict(spec),
                "memory_bytes": memory(model.parent, model.subnet, spec),
                "loss": loss,
                "perplexity": 2.718281828459045**loss,
                "accuracy": answers.share,
                "accuracy_by_task": {str(t): a.share for t, a in answers.by(lambda p: p.task).items()},
                "answers": answers.to_json(),
                "untrained_loss": None if row is None else row.untrained,
                "unsorted_loss": None if row is None else row.unsorted,
                "recovered": None if row is None else row.recovered,
                "hidden": model.subnet.hidden,
                "layers": len(model.subnet.layers),
                "pattern": model.subnet.pattern,
            }
        )
    return out
