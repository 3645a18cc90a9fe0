# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Quality of members: held-out loss, accuracy on problems, lm-eval tasks, and the best shape for a task."""

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
