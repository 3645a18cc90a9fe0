# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a model must beat: the held-out loss of a good bigram model of the same tokens.

Interpolated Kneser-Ney (Chen and Goodman 1999): counts less a discount, the rest given to the token's continuation
probability, itself discounted towards the uniform distribution. The discounts are tuned on the last part of the
training tokens; the model is then counted anew on all of them.
"""

from __future__ import annotations

import numpy as np

from nemo_elastic.data.folder import DataFolder

__all__ = ["Bigram", "bigram_loss", "fit_bigram"]

_DISCOUNTS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
_UNIGRAM_DISCOUNTS = (0.1, 0.5, 0.9)


class Bigram:
    """Counts of a token stream [n], ready to price another one.

    Args:
        tokens: the stream.
        vocab: number of different tokens that may occur.
        discount: taken from every pair's count; unigram_discount: from every token's number of continuations.
    """

    def __init__(self, tokens: np.ndarray, vocab: int, discount: float = 0.7, unigram_discount: float = 0.5) -> None:
        self.vocab, self.discount, self.unigram_discount = vocab, discount, unigram_discount
        pairs = tokens[:-1].astype(np.int64) * vocab + tokens[1:]
        self.pairs, self.counts = np.unique(pairs, return_counts=True)

    def continuation(self) -> np.ndarray:
        """Probability of each token as the end of a pair not seen before, [vocab], above 0 and summing to 1."""
        ends = np.bincount(self.pairs % self.vocab, minlength=self.vocab).astype(float)
        kept = np.maximum(ends - self.unigram_discount, 0)
        return (kept + (ends.sum() - kept.sum()) / self.vocab) / ends.sum()

    def probabilities(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """p(second | first) for arrays of tokens of the same shape [n]."""
        key = first.astype(np.int64) * self.vocab + second
        at = np.minimum(np.searchsorted(self.pairs, key), len(self.pairs) - 1)
        count = np.where(self.pairs[at] == key, self.counts[at], 0)
        starts = self.pairs // self.vocab
        total = np.bincount(starts, weights=self.counts, minlength=self.vocab)[first]
        kinds = np.bincount(starts, minlength=self.vocab)[first]
        seen = np.maximum(total, 1)
        backoff = np.where(total > 0, self.discount * kinds / seen, 1.0)
        return np.maximum(count - self.discount, 0) / seen + backoff * self.continuation()[second]

    def loss(self, tokens: np.ndarray) -> float:
        """Mean negative log likelihood of every token but the first, in nats."""
        return float(-np.log(self.probabilities(tokens[:-1], tokens[1:])).mean())


def fit_bigram(tokens: np.ndarray, vocab: int) -> Bigram:
    """The bigram model of a stream of at least 40 tokens, its smoothing tuned on the last twentieth."""
    cut = len(tokens) - len(tokens) // 20
    part, losses = Bigram(tokens[:cut], vocab), {}
    for discount in _DISCOUNTS:
        for unigram_discount in _UNIGRAM_DISCOUNTS:
            part.discount, part.unigram_discount = discount, unigram_discount
            losses[discount, unigram_discount] = part.loss(tokens[cut:])
    return Bigram(tokens, vocab, *min(losses, key=lambda tried: losses[tried]))


def bigram_loss(folder: DataFolder, limit: int | None = None) -> float:
    """Nats per held-out token of the bigram model of the training tokens; `limit` prices only so many of the first."""
    return fit_bigram(folder.tokens("train"), folder.vocab_size).loss(folder.tokens("val")[:limit])
