# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a model must beat: the held-out loss of a good bigram model of the same tokens.

Interpolated Kneser-Ney (Chen and Goodman 1999): counts less a discount, the rest given to the token's continuation
probability, itself discounted towards the uniform distribution. The discounts are tuned on the last part of the
training tokens; the model is then counted anew on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nemo_elastic.data.folder import DataFolder

__all__ = ["Bigram", "bigram_loss", "fit_bigram"]

_DISCOUNTS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
_UNIGRAM_DISCOUNTS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Bigram:
    """Counts of a token stream, ready to price another one.

    Attributes:
        vocab: Number of different tokens that may occur.
        pairs: Pairs seen, as first * vocab + second, ascending.
        counts: How often each pair was seen.
        discount: Taken from every pair's count.
        unigram_discount: Taken from every token's number of continuations.
    """

    vocab: int
    pairs: np.ndarray
    counts: np.ndarray
    discount: float = 0.7
    unigram_discount: float = 0.5

    @classmethod
    def count(cls, tokens: np.ndarray, vocab: int, discount: float = 0.7, unigram_discount: float = 0.5) -> Bigram:
        """Count the pairs of a stream."""
        pairs, counts = np.unique(_pairs(tokens, vocab), return_counts=True)
        return cls(vocab, pairs, counts, discount, unigram_discount)

    def with_discounts(self, discount: float, unigram_discount: float) -> Bigram:
        """The same counts, smoothed otherwise."""
        return Bigram(self.vocab, self.pairs, self.counts, discount, unigram_discount)

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
    """Fit a bigram model, its smoothing tuned on the last twentieth of the stream.

    Args:
        tokens: The training stream, [n] with n of at least 40.
        vocab: Size of the vocabulary.

    Returns:
        The model of the whole stream.
    """
    cut = len(tokens) - len(tokens) // 20
    part, rest = Bigram.count(tokens[:cut], vocab), tokens[cut:]
    tries = [(part.with_discounts(d, u).loss(rest), d, u) for d in _DISCOUNTS for u in _UNIGRAM_DISCOUNTS]
    _, discount, unigram_discount = min(tries)
    return Bigram.count(tokens, vocab, discount, unigram_discount)


def bigram_loss(folder: DataFolder, train: str = "train", val: str = "val", limit: int | None = None) -> float:
    """Held-out loss of the bigram model of a split, in nats per token.

    Args:
        folder: The data.
        train: Split to count.
        val: Split to price.
        limit: Price only so many tokens from its front, as an evaluation of a model may.

    Returns:
        Nats per token.
    """
    return fit_bigram(folder.tokens(train), folder.vocab_size).loss(folder.tokens(val)[:limit])


def _pairs(tokens: np.ndarray, vocab: int) -> np.ndarray:
    ids = tokens.astype(np.int64)
    return ids[:-1] * vocab + ids[1:]
