# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo runs: sizes, steps and the elastic block, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

#: sequences per micro-batch and tokens per sequence; a step is one micro-batch of 2048 tokens
PARENT, STAGE1, STAGE2 = (8, 256), (16, 128), (4, 512)
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "1.6m"}, {"name": "1.1m", "ratio": 0.72}, {"name": "0.8m", "ratio": 0.5}],
    "axes": {
        "hidden": [128, 112, 96, 80, 64],
        "ffn": {"choices": [512, 448, 384, 320, 256, 192], "stripes": 8},
        "mamba_heads": [16, 12, 8],
        "mamba_head_dim": [16, 14, 12],
        "attention_heads": [4, 2],
        "depth": [12, 11, 10, 9, 8, 7],
    },
    "importance": {"samples": 64, "depth_samples": 8},
    "search": {"candidates": 96, "tokens": 4096},
    "distill": {"chunk_tokens": 512},
}
#: the demo looks at less than a run of its own would
QUICK: dict[str, Any] = {"importance": {"samples": 32, "depth_samples": 8}}


@dataclass(frozen=True)
class Settings:
    """Sizes of the demo, for five minutes on two quiet cores. Every step has 2048 tokens.

    Attributes:
        vocab: size of the BPE vocabulary.
        parent_steps: steps of the parent's training, 256 tokens a sequence; parent_lr: its peak learning rate.
        stage1_steps: steps at 128 tokens a sequence; stage2_steps at 512; elastic_lr: their peak learning rate, low
            because members of a rotated parent start near it.
        eval_every: steps between validations of the parent; stage_eval_every: of a stage.
        eval_tokens: held-out tokens for perplexity; problems: held-out problems for answer accuracy.
        block: the elastic block.
        stage2_sampling: sampling weights of stage 2, in the order of the budgets.
    """

    vocab: int = 1024
    parent_steps: int = 430
    parent_lr: float = 6e-3
    stage1_steps: int = 80
    stage2_steps: int = 40
    elastic_lr: float = 3e-4
    eval_every: int = 100
    stage_eval_every: int = 10
    eval_tokens: int = 16384
    problems: int = 48
    block: dict[str, Any] = field(default_factory=lambda: BLOCK | QUICK)
    stage2_sampling: tuple[float, ...] = (0.5, 0.3, 0.2)

    @property
    def elastic_tokens(self) -> int:
        """Training tokens of both stages."""
        return 2048 * (self.stage1_steps + self.stage2_steps)

    def stage2_block(self) -> dict[str, Any]:
        names = [b["name"] for b in self.block["budgets"]]
        return self.block | {"sampling": dict(zip(names, self.stage2_sampling, strict=True))}


FULL = Settings()
#: every part real, too short to learn much: what CI runs
SHORT = replace(
    FULL,
    parent_steps=40,
    stage1_steps=12,
    stage2_steps=6,
    eval_every=20,
    stage_eval_every=3,
    eval_tokens=4096,
    problems=16,
    block=BLOCK
    | {
        "importance": {"samples": 8, "depth_samples": 2},
        "search": {"candidates": 12, "tokens": 1024},
    },
)
