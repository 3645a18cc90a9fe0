# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Held-out loss of checkpoints, by the same arithmetic and on the same tokens for every way of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_elastic.family import Parent, Subnet

#: held-out tokens of every figure
TOKENS = 65536


def parent_shape(stripes: bool = True, model: str = "study") -> Parent:
    """Shape of a parent of the studies; with the FFN stripes of the studies' blocks unless told otherwise."""
    from benchmarks.study.model import MODELS
    from benchmarks.study.sizes import AXES
    from nemo_elastic.nemo.shape import parent_of

    config = MODELS[model]()
    shape = parent_of(config, config.vocab_size)
    return shape.with_stripes(AXES["ffn"]["stripes"]) if stripes else shape


def family(checkpoint: Path, block: Mapping[str, Any], model: str = "study") -> tuple[Any, dict[str, Subnet]]:
    """The model of an elastic checkpoint in torch, and its members."""
    from nemo_elastic.config import ElasticConfig
    from nemo_elastic.nemo.checkpoint import read_checkpoint
    from nemo_elastic.nemo.family import members_of
    from nemo_elastic.nn.model import NemotronH

    shape = parent_shape(model=model)
    tensors, elastic = read_checkpoint(checkpoint, shape)
    found = members_of(shape, elastic, ElasticConfig.from_dict(dict(block)), str(checkpoint))
    return NemotronH(shape, tensors, trainable=False), found


def dense(checkpoint: Path, shape: Parent) -> Any:
    """The model of a stock checkpoint in torch."""
    from nemo_elastic.nemo.checkpoint import read_checkpoint
    from nemo_elastic.nn.model import NemotronH

    return NemotronH(shape, read_checkpoint(checkpoint, shape)[0], trainable=False)


def heldout(model: Any, data: Path, length: int, member: Subnet | None = None, tokens: int = TOKENS) -> float:
    """Cross-entropy in nats per held-out token."""
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.evaluation.perplexity import perplexity

    stream = DataFolder.open(data).tokens("val")
    return perplexity(lambda t: model(t, member), stream, length, max_tokens=tokens).nats


def solutions(model: Any, data: Path, member: Subnet | None = None, batch: int = 32) -> dict[str, dict[str, float]]:
    """How well a model writes the worked solutions of held-out problems, by their length class.

    All tokens of a solution are predicted from the true ones before them. Where each is the most probable, greedy
    decoding writes exactly this solution: `solved` is the share of such problems.

    Returns:
        {"short" | "long": {"solved", "problems", "token": share of tokens predicted, "late": the same for tokens that
        have at least `reasoning.SHORT_TOKENS` before them (nan where there are none)}}.
    """
    import torch

    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.data.reasoning import SHORT_TOKENS
    from nemo_elastic.data.tokenizer import EOS_ID, encode, load_tokenizer

    folder = DataFolder.open(data)
    tokenizer = load_tokenizer(folder.tokenizer_dir)
    problems = sorted(folder.problems(), key=lambda p: p.tokens)
    prompts = [len(ids) for ids in encode(tokenizer, [p.prompt for p in problems])]
    texts = list(encode(tokenizer, [p.text for p in problems]))
    sums = {length: torch.zeros(6, dtype=torch.float64) for length in ("short", "long")}
    for at in range(0, len(problems), batch):
        rows = range(at, min(at + batch, len(problems)))
        width = max(len(texts[i]) for i in rows) + 1
        tokens = torch.full((len(rows), width), EOS_ID, dtype=torch.int64)
        asked = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, i in enumerate(rows):  # in training a problem follows the end of another document
            tokens[row, 1 : len(texts[i]) + 1] = torch.as_tensor(texts[i], dtype=torch.int64)
            asked[row, prompts[i] + 1 : len(texts[i]) + 1] = True
        with torch.no_grad():
            right = model(tokens[:, :-1], member).argmax(-1) == tokens[:, 1:]
        asked = asked[:, 1:]
        late = asked & (torch.arange(width - 1) >= SHORT_TOKENS)
        for row, i in enumerate(rows):
            hit = right[row] & asked[row]
            figures = [hit.sum() == asked[row].sum(), 1, hit.sum(), asked[row].sum(), (hit & late[row]).sum(),
                       late[row].sum()]  # fmt: skip
            sums[problems[i].length] += torch.tensor([float(f) for f in figures], dtype=torch.float64)
    return {
        length: {"solved": float(s[0] / s[1]), "problems": int(s[1]), "token": float(s[2] / s[3]),
                 "late": float(s[4] / s[5])}
        for length, s in sums.items()
    }  # fmt: skip
