# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's evaluation: every member beside what it is compared with, and answers to held-out problems.

Three controls: the parent (what there is to lose), the member's shape cut from the sorted parent before any training
(what training brings), and the same cut from the unsorted parent (what sorting brings).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from math import exp
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
        family: trained family folder; sorted_parent: the same before training; parent: the same unsorted.
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
    from nemo_elastic.verdicts import closed

    folder = DataFolder.open(data)
    tokens, problems = folder.tokens("val"), folder.problems()[: settings.problems]
    families = {"trained": load_family(family), "sorted": load_family(sorted_parent), "unsorted": load_family(parent)}
    trained = families["trained"]
    assert all(each.parent == trained.parent for each in families.values()), "cut stripe by stripe, as the family"
    full, whole = trained.parent.full, parameters(trained.parent, trained.held)
    # the cut of the parent's own shape is the parent itself, sorted or not
    wanted = [("sorted", full), *(("trained", m) for m in trained.members.values())]
    wanted += [(way, m) for way in ("sorted", "unsorted") for m in trained.members.values() if m != full]
    wanted, losses = list(dict.fromkeys(wanted)), {}
    for way, subnet in wanted:
        model = families[way].select(subnet)
        losses[way, subnet] = perplexity(model, tokens, LENGTH, max_tokens=settings.eval_tokens).nats
        families[way].release()  # one model's slices at a time
        tell(f"held-out loss: {len(losses)}/{len(wanted)} models")
    before = losses["sorted", full]
    spec = served_as(read_json(family / "config.json"))
    models = [("parent", families["sorted"].select(None), None)]
    models += [(name, trained.select(name), subnet) for name, subnet in trained.members.items()]
    out = []
    for name, model, subnet in models:
        answers = answer_accuracy(model, problems, folder.tokenizer_dir)
        tell(f"answers of {name}: {answers.correct}/{answers.total}")
        loss, untrained, unsorted = before, None, None
        if subnet is not None:
            loss = losses["trained", subnet]
            untrained, unsorted = (losses.get((way, subnet), before) for way in ("sorted", "unsorted"))
        out.append(
            {
                "name": name,
                "parameters": model.parameters,
                "ratio": model.parameters / whole,
                "memory": asdict(spec),
                "memory_bytes": memory(model.parent, model.subnet, spec),
                "loss": loss,
                "perplexity": exp(loss),
                "accuracy": answers.share,
                "accuracy_by_task": {str(t): a.share for t, a in answers.by(lambda p: p.task).items()},
                "answers": answers.to_json(),
                "untrained_loss": untrained,
                "unsorted_loss": unsorted,
                "recovered": None if untrained is None else closed(untrained, loss, before),
                "hidden": model.subnet.hidden,
                "layers": len(model.subnet.layers),
                "pattern": model.subnet.pattern,
            }
        )
    return out
