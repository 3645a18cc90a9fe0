# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loss over held-out tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.values import integer
from nemo_elastic.nn.functional import work_dtype

#: token ids, and whether each of them but the first counts
Window = tuple[np.ndarray, np.ndarray]
#: tokens whose losses are computed at once: bounds the float32 copy of the logits at a large vocabulary
_CHUNK = 1024
_NO_NUMBER = (
    "loss: infinite or not a number on this data; load the family in a wider dtype, or see with nemo-elastic verify "
    "whether it is damaged"
)


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
        """Both figures; a perplexity that no float holds is null."""
        ppl = self.perplexity if math.isfinite(self.perplexity) else None
        return {"loss": self.nats, "perplexity": ppl, "tokens": self.tokens}


def perplexity(
    model: Callable[[torch.Tensor], torch.Tensor],
    tokens: np.ndarray,
    seq_length: int,
    batch: int = 8,
    max_tokens: int | None = None,
) -> Loss:
    """Mean loss over a stream of held-out tokens, cut into windows that do not overlap.

    Every token but the first is predicted exactly once, from those before it in its window: a window of `seq_length`
    inputs starts at the last label of the one before it, as in training. The last window may be shorter.

    Args:
        model: token ids [b, l] to logits [b, l, v].
        tokens: one-dimensional stream; may be a memory map.
        seq_length: inputs of a window.
        batch: windows at once.
        max_tokens: predict no more than this many, from the start of the stream; all by default.

    Returns:
        The loss, the same for every `batch`.

    Raises:
        ElasticError: fewer than two tokens, a size that is not positive, or a loss that is no number.
    """
    seq_length = integer("seq_length", seq_length, 1, "a positive integer")
    batch = integer("batch", batch, 1, "a positive integer")
    if max_tokens is not None:
        max_tokens = integer("max_tokens", max_tokens, 1, "a positive integer")
    if len(tokens) < 2:
        raise bad("tokens", f"{len(tokens)} tokens", "at least two: one to start from and one to predict")
    count = min(len(tokens) - 1, max_tokens or len(tokens))
    total = 0.0
    with torch.no_grad():
        for window_bl in _windows(tokens, count, seq_length, batch):
            total += sum(part_t.sum().item() for part_t in _token_losses(model, window_bl))
            if not math.isfinite(total):
                raise ElasticError(_NO_NUMBER)
    return Loss(total / count, count)


def answer_loss(
    model: Callable[[torch.Tensor], torch.Tensor],
    documents: Iterable[tuple[np.ndarray, np.ndarray | None]],
    seq_length: int,
    batch: int = 8,
    max_tokens: int | None = None,
) -> Loss:
    """Mean loss over the tokens that count of conversations, each read from its beginning.

    One that is longer than a window is cut into windows as a stream is.

    Args:
        model: token ids [b, l] to logits [b, l, v].
        documents: token ids, and which of them count; None for all.
        seq_length: inputs of a window.
        batch: windows at once.
        max_tokens: take no more documents once so many tokens count.

    Raises:
        ElasticError: a loss that is no number, or no token counts.
    """
    windows: list[Window] = []
    count = 0
    for document in documents:
        for window in answer_windows([document], seq_length):
            windows.append(window)
            count += int(window[1].sum())
        if max_tokens is not None and count >= max_tokens:
            break
    if not count:
        raise ElasticError("data: no token counts; there are no answers in it")
    total = float(window_losses(model, windows, batch).sum())
    if not math.isfinite(total):
        raise ElasticError(_NO_NUMBER)
    return Loss(total / count, count)


def answer_windows(documents: Iterable[tuple[np.ndarray, np.ndarray | None]], seq_length: int) -> Iterator[Window]:
    """Documents cut into windows of `seq_length` inputs and a last label, without those in which no label counts."""
    for ids, counts in documents:
        mask = np.ones(len(ids), dtype=bool) if counts is None else counts
        for at in range(0, len(ids) - 1, seq_length):
            if (part := mask[at + 1 : at + seq_length + 1]).any():
                yield ids[at : at + seq_length + 1], part


def padded_windows(windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of windows, padded behind their end: token ids [b, l + 1], and whether each label counts, [b, l]."""
    tokens_bl = np.zeros((len(windows), max(len(ids) for ids, _ in windows)), dtype=np.int64)
    mask_bl = np.zeros((len(windows), tokens_bl.shape[1] - 1), dtype=bool)
    for row, (ids, mask) in enumerate(windows):
        tokens_bl[row, : len(ids)], mask_bl[row, : len(mask)] = ids, mask
    return torch.from_numpy(tokens_bl), torch.from_numpy(mask_bl)


def window_losses(
    model: Callable[[torch.Tensor], torch.Tensor], windows: Sequence[Window], batch: int = 8
) -> np.ndarray:
    """Loss of each of several windows, over its labels that count.

    Rows of a batch are padded behind their end, which a causal model's earlier logits do not see.

    Args:
        model: token ids [b, l] to logits [b, l, v].
        windows: of any lengths, as `answer_windows` gives them.
        batch: windows at once.

    Returns:
        Sums in nats, float64 [s], the same for every `batch`.
    """
    out_s = np.zeros(len(windows))
    order = sorted(range(len(windows)), key=lambda at: len(windows[at][0]))  # little to pad
    with torch.no_grad():
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            tokens_bl, mask_bl = padded_windows([windows[at] for at in rows])
            loss_bl = torch.cat(list(_token_losses(model, tokens_bl))).cpu().view(mask_bl.shape)
            out_s[rows] = loss_bl.masked_fill(~mask_bl, 0.0).sum(1).numpy()
    return out_s


def _token_losses(model: Callable[[torch.Tensor], torch.Tensor], window_bl: torch.Tensor) -> Iterator[torch.Tensor]:
    """Losses of all labels of a batch of windows [b, l + 1], in order, float64, some at a time."""
    logits_tv = model(window_bl[:, :-1]).flatten(0, 1)
    labels_t = window_bl[:, 1:].flatten().to(logits_tv.device)
    for at in range(0, len(labels_t), _CHUNK):
        rows_tv = logits_tv[at : at + _CHUNK].to(work_dtype(logits_tv))
        yield F.cross_entropy(rows_tv, labels_t[at : at + _CHUNK], reduction="none").double()


def _windows(tokens: np.ndarray, count: int, length: int, batch: int) -> Iterator[torch.Tensor]:
    """Batches [b, length + 1] of windows with their last label, and what is left as one shorter window."""
    full = count // length
    for first in range(0, full, batch):
        starts = range(first * length, min(first + batch, full) * length, length)
        yield torch.from_numpy(np.stack([tokens[s : s + length + 1] for s in starts]).astype(np.int64))
    if count % length:
        yield torch.from_numpy(np.array(tokens[full * length : count + 1], dtype=np.int64)[None])
