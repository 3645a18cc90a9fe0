# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Quality of members: loss, accepted drafts, answers to problems, lm-eval tasks; the best shape for a task."""

from .accuracy import answer_accuracy
from .drafts import Drafts, accepted_drafts, predictor_of
from .scoring import Loss, answer_loss, log_probs, perplexity
from .task_shape import Half, Halves, Specialized, halves_of, specialize

__all__ = [
    "Drafts",
    "Half",
    "Halves",
    "Loss",
    "Specialized",
    "accepted_drafts",
    "answer_accuracy",
    "answer_loss",
    "halves_of",
    "log_probs",
    "perplexity",
    "predictor_of",
    "specialize",
]
