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
from nemo_elastic.nn.dtype import work_dtype
from nemo_elastic.nn.forward import forward
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
    """
    log_tv = logits_tv.to(work_dtype(logits_tv)).log_softmax(-1)
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


def read_signals(weights: Weights, prompt: Sequence[int]) -> list[float]:
    """Signals of a prompt: one reading by the smallest member, of which only the tail's logits are computed.

    Args:
        weights: of the smallest member.
        prompt: token ids, at least one.
    """
    tail = prompt[-TAIL:]
    cache = Cache.empty(weights.parent, weights.member, 1, weights.embedding)
    with torch.no_grad():
        for part in (prompt[:-TAIL], tail):
            if part:
                tokens_bl = torch.tensor([list(part)], device=weights.embedding.device)
                logits_blv = forward(weights, tokens_bl, cache=cache, last=part is not tail)
    return signals(logits_blv[0], tail, len(prompt))
