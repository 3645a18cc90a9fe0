# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Held-out loss of checkpoints, by the same arithmetic and on the same tokens for every way of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.study.rates import REPORTED, TUNED, held_out_parts
from nemo_elastic.core.family import Parent, Subnet

#: the most held-out tokens of a figure
TOKENS = 65536


def parent_shape(stripes: bool = True, model: str = "study") -> Parent:
    """Shape of a parent of the studies; with the FFN stripes of the studies' blocks by default."""
    from benchmarks.study.model import MODELS
    from benchmarks.study.sizes import AXES
    from nemo_elastic.formats.megatron.shape import parent_of

    config = MODELS[model]()
    shape = parent_of(config, config.vocab_size)
    return replace(shape, ffn_stripes=AXES["ffn"]["stripes"]) if stripes else shape


def family(checkpoint: Path) -> tuple[Any, dict[str, Subnet]]:
    """The model of an elastic checkpoint in torch, and its members."""
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.nn.nemotron_h import NemotronH

    source = open_source(checkpoint)
    return NemotronH(source.parent, dict(source.weights.as_torch()), trainable=False), source.members


def dense(checkpoint: Path, shape: Parent) -> Any:
    """The model of a stock checkpoint in torch."""
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.nn.nemotron_h import NemotronH

    return NemotronH(shape, dict(open_source(checkpoint).weights.as_torch()), trainable=False)


def heldout(
    model: Any, data: Path, length: int, members: Mapping[str, Subnet | None], tokens: int = TOKENS
) -> dict[str, dict[str, float]]:
    """Cross-entropy of each member in nats per held-out token, on two parts of the text that share no token.

    Returns:
        {"losses": of the part that tables report, "tuned": of the part that rates are chosen by}.
    """
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.evaluation.scoring import perplexity

    parts = held_out_parts(DataFolder.open(data).tokens("val"))

    def losses(part: str) -> dict[str, float]:
        return {
            name: perplexity(lambda t, m=member: model(t, m), parts[part], length, max_tokens=tokens).nats
            for name, member in members.items()
        }

    return {"losses": losses(REPORTED), TUNED: losses(TUNED)}


def answers(model: Any, data: Path, member: Subnet | None = None, batch: int = 8) -> dict[str, Any]:
    """What a model answers to the questions of held-out documents, and its loss near their start and behind it.

    Every token is predicted from the true ones before it; where all of an answer are the most probable, greedy
    decoding writes exactly this answer.

    Returns:
        {"right": {kind: {level: [right, asked]}}, "nats": {"first": of the first `SHORT` tokens of a document,
        "behind": of the others}}.
    """
    import torch
    import torch.nn.functional as F

    from benchmarks.study.context import SHORT, documents
    from benchmarks.study.data import held_out

    tokens = torch.as_tensor(held_out(data).astype("int64"))
    right: dict[str, dict[int, list[int]]] = {}
    first = behind = 0.0
    asked = documents("val")
    for rows in tokens.split(batch):
        with torch.no_grad():
            logits = model(rows[:, :-1], member)
        losses = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1)
        first += float(losses[:, : SHORT - 1].double().sum())
        behind += float(losses[:, SHORT - 1 :].double().sum())
        hits = (logits.argmax(-1) == rows[:, 1:]).numpy()
        for hit, document in zip(hits, asked, strict=False):
            for q in document.questions:
                counts = right.setdefault(q.kind, {}).setdefault(q.level, [0, 0])
                counts[0] += int(hit[q.start - 1 : q.end - 1].all())
                counts[1] += 1
    split = len(tokens) * (SHORT - 1), len(tokens) * (tokens.shape[1] - SHORT)
    return {"right": right, "nats": {"first": first / split[0], "behind": behind / split[1]}}
