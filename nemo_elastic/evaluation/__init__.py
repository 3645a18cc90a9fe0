# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How good a member is: held-out loss, answers to held-out problems, lm-eval tasks, and its best shape for a task."""

from .accuracy import answer_accuracy
from .scoring import Loss, answer_loss, log_probs, perplexity
from .task_shape import Half, Halves, Specialized, halves_of, specialize

__all__ = [
    "Half",
    "Halves",
    "Loss",
    "Specialized",
    "answer_accuracy",
    "answer_loss",
    "halves_of",
    "log_probs",
    "perplexity",
    "specialize",
]
