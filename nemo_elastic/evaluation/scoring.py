# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of labels under a model, losses, and greedy answers to many prompts.

b: rows, l: positions, t: labels that count, v: vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from nemo_elastic.data.encoded import Encoded
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.values import integer
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.nn.rows import Rows

#: token ids [b, l] -> logits [b, l, v]
Model = Callable[[torch.Tensor], torch.Tensor]
#: labels that are scored at once: bounds the float32 copy of the logits at a large vocabulary
_CHUNK = 1024
_NO_NUMBER = (
    "loss: infinite or not a number on this data; load the family in a wider dtype, or see with nemo-elastic verify "
    "whether it is damaged"
)


def log_probs(
    model: Model, rows: Rows, batch: int = 8, seen: Callable[[list[int], torch.Tensor], None] | None = None
) -> torch.Tensor:
    """Log-probability of every label that counts, float64 [b, l - 1] in nats; 0 of labels that do not count.

    Rows run longest first, `batch` at once, up to their last label that counts. Padding after a
    shorter row does not change a causal model's earlier logits. `seen` is called with the numbers of each batch's
    rows and their logits.
    """
    labels_bl, counted_bl = rows.ids_bl[:, 1:], rows.every_count()[:, :-1] != 0
    out_bl = torch.zeros(labels_bl.shape, dtype=torch.float64)
    lengths = [max(row.nonzero()[:, 0].tolist(), default=-1) + 1 for row in counted_bl]
    order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
    with torch.no_grad():
        for at in range(0, len(order), batch):
            part, length = order[at : at + batch], lengths[order[at]]
            logits_blv = model(rows.ids_bl[part, :length])
            if seen is not None:
                seen(part, logits_blv)
            row_t, place_t = counted_bl[part, :length].nonzero(as_tuple=True)
            places = torch.tensor(part)[row_t], place_t
            out_bl[places] = _label_log_probs(logits_blv, (row_t, place_t), labels_bl[places])
    return out_bl


def _label_log_probs(
    logits_blv: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor], labels_t: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities of labels at some places of the logits, float64 on the CPU, some at a time."""
    parts, device = [], logits_blv.device
    for *at, labels in zip(*(t.to(device).split(_CHUNK) for t in (*places, labels_t)), strict=True):
        logits_tv = logits_blv[tuple(at)]
        parts.append(-F.cross_entropy(logits_tv.to(work_dtype(logits_tv)), labels, reduction="none").double().cpu())
    return torch.cat(parts)


@dataclass(frozen=True)
class Loss:
    """Mean cross-entropy.

    Attributes:
        nats: per token.
        tokens: how many were predicted.
    """

    nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp of the loss; infinity where a float ends."""
        return math.exp(self.nats) if self.nats < 700 else math.inf

    def to_json(self) -> dict[str, Any]:
        """Loss and perplexity; null for a perplexity beyond the range of a float."""
        ppl = self.perplexity if math.isfinite(self.perplexity) else None
        return {"loss": self.nats, "perplexity": ppl, "tokens": self.tokens}


def perplexity(
    model: Model, tokens: np.ndarray, seq_length: int, batch: int = 8, max_tokens: int | None = None
) -> Loss:
    """Mean loss over the first `max_tokens` labels of a stream of tokens, cut into windows that do not overlap.

    Every token but the first is predicted exactly once, from those before it in its window of `seq_length` inputs, as
    in training. `ElasticError` for fewer than two tokens, a size that is not positive, or a loss that is no number.
    """
    seq_length = integer("seq_length", seq_length, 1, "a positive integer")
    batch = integer("batch", batch, 1, "a positive integer")
    if max_tokens is not None:
        max_tokens = integer("max_tokens", max_tokens, 1, "a positive integer")
    if len(tokens) < 2:
        raise bad("tokens", f"{len(tokens)} tokens", "at least two: one to start from and one to predict")
    count = min(len(tokens) - 1, max_tokens or len(tokens))
    return _loss(model, Rows.windows(tokens[: count + 1], None, seq_length), batch)


def answer_loss(
    model: Model, documents: Iterable[Encoded], seq_length: int, batch: int = 8, max_tokens: int | None = None
) -> Loss:
    """Mean loss over the tokens that count in `answer_windows`; `ElasticError` for a loss that is no number."""
    return _loss(model, answer_windows(documents, seq_length, max_tokens), batch)


def answer_windows(documents: Iterable[Encoded], seq_length: int, max_tokens: int | None = None) -> list[Rows]:
    """Windows of `seq_length` inputs that have tokens that count, in documents, each read from its beginning.

    Once `max_tokens` tokens count, no more documents are read. `ElasticError` where none counts.
    """
    windows: list[Rows] = []
    counted = 0.0
    for document in documents:
        document_rows = list(Rows.windows(document.ids, document.counts, seq_length))
        windows += document_rows
        counted += sum(rows.counted for rows in document_rows)
        if max_tokens is not None and counted >= max_tokens:
            break
    if not counted:
        raise ElasticError(
            "data: has no token that the loss counts: a text needs two tokens, a conversation an answer"
        )
    return windows


def _loss(model: Model, windows: Iterable[Rows], batch: int) -> Loss:
    rows = Rows.joined(list(windows))
    total = -float(log_probs(model, rows, batch).sum())
    if not math.isfinite(total):
        raise ElasticError(_NO_NUMBER)
    return Loss(total / rows.counted, int(rows.counted))


class Generates(Protocol):
    """What decodes: a member of a family in memory, a `NemotronH`, or anything of that form."""

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: Sequence[int], stop_ids: Iterable[int]
    ) -> list[list[int]]: ...


def greedy_answers(
    member: Generates, prompts: Sequence[Sequence[int]], limits: Sequence[int], end: int, batch: int
) -> list[list[int]]:
    """New tokens of each prompt without the end token, `batch` prompts at once.

    A batch runs until its longest answer ends, so those that are about as long are decoded together.
    """
    out: list[list[int]] = [[]] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + limits[i])
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        new = member.generate([prompts[i] for i in rows], [limits[i] for i in rows], (end,))
        for i, ids in zip(rows, new, strict=True):
            out[i] = ids[:-1] if ids and ids[-1] == end else ids
    return out
