# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How good a member is: held-out loss, answers to held-out problems, lm-eval tasks, and what to compare them with."""

from .accuracy import Accuracy, Answer, answer_accuracy
from .controls import Control, controls
from .perplexity import Loss, answer_loss, perplexity, window_losses
from .task_shape import Half, Halves, Specialized, halves_of, specialize

__all__ = [
    "Accuracy",
    "Answer",
    "Control",
    "Half",
    "Halves",
    "Loss",
    "Specialized",
    "answer_accuracy",
    "answer_loss",
    "controls",
    "halves_of",
    "perplexity",
    "specialize",
    "window_losses",
]
