# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding of many prompts at once, whatever their lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer
from nemo_elastic.nn.cache import Cache
from nemo_elastic.nn.forward import forward
from nemo_elastic.nn.weights import Weights

#: the batch is made smaller once this share of its sequences has ended
_COMPACT_AT = 0.125


def generate(
    weights: Weights,
    prompts: torch.Tensor | Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    stop_ids: Iterable[int] = (),
) -> list[list[int]]:
    """The most likely next token, again and again.

    All sequences start at position 0 and move in step: the shortest prompt's length is read in one forward; from there
    on a sequence that is still in its prompt is fed the prompt's next token, and the others what they have just said.
    So there is neither padding nor a mask, which Mamba's states would not tolerate, and each sequence gets exactly
    what it would get alone. Ended sequences leave the batch.

    Args:
        weights: of the member that decodes.
        prompts: token ids; a tensor [b, l], or sequences of any lengths (best of similar lengths).
        max_new_tokens: for all, or one number for each prompt.
        stop_ids: tokens that end a sequence.

    Returns:
        For each prompt its new tokens, without the prompt, with the stop token where one came.

    Raises:
        ElasticError: a prompt is empty, or a token is not in the vocabulary.
    """
    ids = [[int(t) for t in row] for row in (prompts.tolist() if isinstance(prompts, torch.Tensor) else prompts)]
    asked = max_new_tokens.tolist() if isinstance(max_new_tokens, torch.Tensor) else max_new_tokens
    asked = list(asked) if isinstance(asked, Iterable) else [asked] * len(ids)
    limits = [integer("max_new_tokens", n, 0, "a whole number of tokens") for n in asked]
    if len(limits) != len(ids):
        raise bad("max_new_tokens", f"{len(limits)} numbers", f"one number, or one for each of {len(ids)} prompts")
    for i, row in enumerate(ids):
        if not row:
            raise bad(f"prompts[{i}]", row, "at least one token")
        if not 0 <= min(row) <= max(row) < weights.parent.vocab:
            raise bad(f"prompts[{i}]", [min(row), max(row)], f"tokens are 0 to {weights.parent.vocab - 1}")
    new: list[list[int]] = [[] for _ in ids]
    active = [i for i, limit in enumerate(limits) if limit > 0]
    if active:
        with torch.no_grad():
            _decode(weights, ids, limits, frozenset(stop_ids), active, new)
    return new


def _decode(
    weights: Weights,
    ids: list[list[int]],
    limits: list[int],
    stops: frozenset[int],
    active: list[int],
    new: list[list[int]],
) -> None:
    """Fill `new`; `active` holds the prompt that each row of the batch belongs to."""
    device = weights.embedding.device
    at = min(len(ids[i]) for i in active)
    cache = Cache.empty(weights.parent, weights.member, len(active), weights.embedding)
    tokens = torch.tensor([ids[i][:at] for i in active], device=device)
    ended: set[int] = set()
    while True:
        said = forward(weights, tokens, cache=cache, last=True)[:, -1].argmax(-1).tolist()
        for row, i in enumerate(active):
            if at < len(ids[i]):
                said[row] = ids[i][at]
            elif i not in ended:
                new[i].append(said[row])
                if said[row] in stops or len(new[i]) >= limits[i]:
                    ended.add(i)
        at += 1
        gone = len(ended.intersection(active))
        if gone == len(active):
            return
        if gone > _COMPACT_AT * len(active):
            rows = [row for row, i in enumerate(active) if i not in ended]
            cache.select(torch.tensor(rows, device=device))
            active, said = [active[row] for row in rows], [said[row] for row in rows]
        tokens = torch.tensor(said, device=device).unsqueeze(1)
