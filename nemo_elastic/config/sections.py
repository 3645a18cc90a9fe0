# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sections of the `elastic:` block: ranking, search, router, loss, data, and non-finite values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from nemo_elastic.config.losses import TERMS
from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.errors import bad
from nemo_elastic.io.fields import Between, Length, OneOf, check

#: how the residual stream, neurons, all widths, experts and layers are ranked
HIDDENS, FFN = ("basis", "magnitude"), ("activation", "first")
AGGREGATIONS, EXPERTS = ("l2_mean", "mean"), ("mean", "l2")
DEPTH_SCORES = ("mse", "cosine")
GATES = ("soft", "hard")
TEACHERS = ("frozen", "self", "none")
TEACHER_PRECISIONS = ("bf16",)
NONFINITE = ("stop", "skip")
JOINED, APART = "joined", "apart"

_AtLeastOne = Annotated[int, Between(1)]
_PAIR = "two numbers: at the start and at freeze_at"
_Positive = Annotated[float, Between(1e-6, 1e6, "positive numbers")]
_Pair = Annotated[tuple[_Positive, _Positive], Length(said=_PAIR)]
_Weight = Annotated[float, Between(0, 1e3, "a weight of at least 0")]


@dataclass(frozen=True)
class ImportanceConfig:
    """How channels, heads and layers are ranked where no ranking is given.

    Attributes:
        samples: training sequences that are looked at, the first of the run's data, by all data-parallel ranks
            together.
        hidden: basis (the residual stream is rotated so that its first channels hold most of it; the parent's function
            stays the same) or magnitude (channels are chosen by the norms' outputs). A parent whose head is tied to
            its embedding and a family that keeps the whole width are ranked by magnitude.
        ffn: activation (what enters the second linear) or first (the first linear's output).
        aggregation: l2_mean (root of the sum over sequences of the squared mean) or mean.
        experts: mean (of an expert's weight times the norm of its output, over the tokens routed to it) or l2 (the
            root of the mean square).
        depth: mse (iterative: drop the least important layer, recompute) or cosine (one pass).
        depth_samples: of those, the sequences on which dropped layers are measured, by all data-parallel ranks
            together; rounded up, so that each rank measures as many.
    """

    samples: _AtLeastOne = 1024
    hidden: Annotated[str, OneOf(HIDDENS)] = "basis"
    ffn: Annotated[str, OneOf(FFN)] = "activation"
    aggregation: Annotated[str, OneOf(AGGREGATIONS)] = "l2_mean"
    experts: Annotated[str, OneOf(EXPERTS)] = "mean"
    depth: Annotated[str, OneOf(DEPTH_SCORES)] = "mse"
    depth_samples: _AtLeastOne = 8

    def __post_init__(self) -> None:
        check(self, "elastic.importance")


@dataclass(frozen=True)
class SearchConfig:
    """Search over untrained losses, for `shapes: search`.

    Attributes:
        candidates: members measured at most; fewer where no other can win.
        tokens: training tokens on which each candidate is measured, untrained: the mean divergence (KL) of its logits
            from the whole parent's. They are the first of the run's data, in whole sequences of its length, of all
            data-parallel ranks together, at least one on each.
    """

    candidates: _AtLeastOne = 256
    tokens: _AtLeastOne = 65536

    def __post_init__(self) -> None:
        check(self, "elastic.search")


@dataclass(frozen=True)
class RouterConfig:
    """The trained router of `shapes: router`. Nemotron Elastic's are its MLPs, Gumbel-softmax, tau, scale, soft masks
    (gate: soft) and the budget loss; straight-through masks (gate: hard) and freeze_at below 1 are ours.

    Attributes:
        hidden: width of each axis' MLP.
        lr: its learning rate. At 1e-2 nearly all is decided within 200 steps (docs: method, when it decides).
        tau: Gumbel-softmax temperature at start and at `freeze_at`, linear between.
        scale: factor on the logits at start and at `freeze_at`, linear between.
        init_std: standard deviation of its initial weights.
        loss_weight: weight of the budget loss |cost/target - 1|: 1.0 adds one nat when the cost is twice the target.
            Where a larger shape lowers the distillation loss by more, the router overshoots the budget.
        gate: soft (expected masks) or hard (straight-through masks).
        freeze_at: fraction of stage 1 after which shapes are projected and frozen and every step is sliced; before it
            every step of a smaller budget runs the whole model under masks.
    """

    hidden: _AtLeastOne = 256
    lr: Annotated[float, Between(0, 10, "a learning rate from 0 to 10")] = 1e-2
    tau: _Pair = (1.0, 0.05)
    scale: _Pair = (1.0, 10.0)
    init_std: Annotated[float, Between(0, 10)] = 0.1
    loss_weight: Annotated[float, Between(0, 1e6)] = 1.0
    gate: Annotated[str, OneOf(GATES)] = "soft"
    freeze_at: Annotated[float, Between(0, 1, "a fraction of stage 1 from 0 to 1")] = 1.0

    def __post_init__(self) -> None:
        check(self, "elastic.router")

    def freeze_step(self, stage_steps: int) -> int:
        """First step of a stage 1 of `stage_steps` that runs on frozen shapes."""
        return round(self.freeze_at * stage_steps)


@dataclass(frozen=True)
class DistillConfig:
    """Training loss: a weighted sum of terms; some compare with a teacher.

    Attributes:
        teacher: frozen (the parent as it was; the default), self (the whole model as it is: it learns by the terms
            that need no teacher, or by cross-entropy, and teaches the others) or none.
        terms: term -> weight: kl (forward divergence from the teacher), reverse_kl (the member's from the teacher's),
            ce (cross-entropy); {kl: 1} unless given, {ce: 1} without a teacher.
        temperature: of both distributions in kl and reverse_kl; the loss has no T^2 factor.
        chunk_tokens: tokens whose logits are in memory at a time; does not change the loss.
        teacher_precision: weights of the frozen teacher: null keeps the model's precision, bf16 holds and runs all
            of it in bf16.
        quantize: null, nvfp4 or fp8 (E4M3): quantization-aware distillation. Members run, and are validated, on
            fake-quantized weights of Mamba layers, MLPs and experts, with scales recomputed from the parent's weights
            each step and straight-through gradients. Activations, the frozen teacher, attention, a Mamba layer right
            before one, and all other weights keep their precision; so do checkpoints and exports. For stages 2 and 3:
            stage 1 ranks and learns shapes at full precision.
    """

    teacher: Annotated[str, OneOf(TEACHERS)] | None = None
    terms: Annotated[Mapping[str, _Weight], OneOf(TERMS)] | None = None
    temperature: Annotated[float, Between(1e-3, 1e3, "a positive number")] = 1.0
    chunk_tokens: _AtLeastOne = 512
    teacher_precision: Annotated[str, OneOf(TEACHER_PRECISIONS)] | None = None
    quantize: Annotated[str, OneOf(SCHEMES)] | None = None

    def __post_init__(self) -> None:
        check(self, "elastic.distill")
        if self.teacher is None:
            object.__setattr__(self, "teacher", "frozen")
        if self.terms is None:
            object.__setattr__(self, "terms", {"ce": 1.0} if self.teacher == "none" else {"kl": 1.0})
        self._check_teacher()
        if self.teacher_precision is not None and self.teacher != "frozen":
            allowed = f"null: distill.teacher is {self.teacher}, not frozen"
            raise bad("elastic.distill.teacher_precision", self.teacher_precision, allowed)

    def _check_teacher(self) -> None:
        """Raise where no term counts, or the terms that do need another teacher."""
        assert self.terms is not None
        used = [name for name, weight in self.terms.items() if weight > 0]
        if not used:
            raise bad("elastic.distill.terms", self.terms, "at least one weight above 0, e.g. {kl: 1, ce: 0.5}")
        compares = [name for name in used if TERMS[name].teacher]
        if compares and self.teacher == "none":
            allowed = f"frozen or self: the term {compares[0]} compares with a teacher"
            raise bad("elastic.distill.teacher", "none", allowed)
        if not compares and self.teacher != "none":
            raise bad("elastic.distill.teacher", self.teacher, f"none: no term of {', '.join(used)} compares with it")

    @property
    def has_teacher(self) -> bool:
        """Whether a frozen teacher or the whole model teaches."""
        return self.teacher != "none"

    def of(self, has_teacher: bool) -> dict[str, float]:
        """Terms of a budget that is compared with a teacher, or of one that is not; with none left, cross-entropy."""
        assert self.terms is not None
        used = {n: w for n, w in self.terms.items() if w > 0 and (has_teacher or not TERMS[n].teacher)}
        return used or {"ce": 1.0}


@dataclass(frozen=True)
class DataConfig:
    """What the run's data is to the family; the data itself is the recipe's.

    Attributes:
        documents: of rows that hold several: apart (reset the convolution and SSM state and mask attention at document
            boundaries, in teacher and members) or joined (a row is read as one text). null takes the host's own
            convention: apart for packed fine-tuning data, joined for pretraining data.
    """

    documents: Annotated[str, OneOf((JOINED, APART))] | None = None

    def __post_init__(self) -> None:
        check(self, "elastic.data")


@dataclass(frozen=True)
class NonfiniteConfig:
    """A step whose loss or gradients are NaN or infinite.

    Attributes:
        action: stop (report step, budget and layer in one line, and exit before the optimizer step and without saving)
            or skip (the same line; weights and optimizer state stay as they are, the schedule continues).
        limit: skipped steps in a row with which the run stops all the same.
    """

    action: Annotated[str, OneOf(NONFINITE)] = "stop"
    limit: _AtLeastOne = 8

    def __post_init__(self) -> None:
        check(self, "elastic.nonfinite")
