# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the smallest member's reading of a prompt tells about how hard the prompt is for it.

t: positions at the prompt's end, v: vocabulary, n: prompts, s: signals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nemo_elastic.nn.cache import Cache
from nemo_elastic.nn.forward import forward
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.nn.generate import Prefill, check_finite
from nemo_elastic.nn.weights import Weights

#: positions at a prompt's end over which a mean is taken
TAIL = 16
#: in the order in which `signals` gives them
SIGNALS = ("entropy", "margin", "tail_entropy", "tail_margin", "tail_surprise", "log_length")


def signals(logits_tv: torch.Tensor, tokens: Sequence[int], length: int) -> list[float]:
    """Signals of one prompt, in nats.

    Entropy and margin (between the two most likely tokens, in log-probability) behind the whole prompt, and their
    means over its tail; the mean surprise (negative log-probability) of the tail's tokens after those before them; and
    the logarithm of the prompt's length.

    Args:
        logits_tv: behind each of the tail's tokens, [t, v].
        tokens: the tail's t tokens.
        length: tokens of the whole prompt.

    Returns:
        Numbers in the order of `SIGNALS`.

    Raises:
        ElasticError: logits are not finite.
    """
    log_tv = check_finite(logits_tv).to(work_dtype(logits_tv)).log_softmax(-1)
    entropy_t = torch.special.entr(log_tv.exp()).sum(-1)
    best_t2 = log_tv.topk(2, -1).values
    margin_t = best_t2[:, 0] - best_t2[:, 1]
    if len(tokens) > 1:
        said_t = torch.tensor(tokens[1:], device=log_tv.device)
        surprise = -log_tv[:-1].gather(-1, said_t[:, None]).mean()
    else:
        surprise = entropy_t[0]  # what is expected of the next token, where none was seen
    last = (entropy_t[-1], margin_t[-1])
    return [float(x) for x in (*last, entropy_t.mean(), margin_t.mean(), surprise)] + [math.log(length)]


def read(weights: Weights, prompt: Sequence[int]) -> tuple[list[float], Prefill]:
    """Signals of a prompt, of whose logits only those of the tail are computed, and what its reading has left.

    Args:
        weights: of the smallest member.
        prompt: token ids, at least one.
    """
    tail = prompt[-TAIL:]
    cache = Cache.empty(weights.parent, weights.member, 1, weights.embedding)
    with torch.no_grad():
        if before := prompt[:-TAIL]:
            forward(weights, torch.tensor([list(before)], device=weights.embedding.device), cache=cache, last=True)
        tail_bl = torch.tensor([list(tail)], device=weights.embedding.device)
        logits_tv = forward(weights, tail_bl, cache=cache)[0]
    return signals(logits_tv, tail, len(prompt)), (cache, logits_tv[-1:])
