# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sections of the `elastic:` block: ranking, search, router, loss, and what is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemo_elastic.config.losses import TERMS
from nemo_elastic.core.precision import SCHEMES
from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer, keep_plain, number

GATES = ("soft", "hard")
TEACHERS = ("frozen", "self", "none")
#: words of version 0.1 -> teacher, and terms with their weights (None: `alpha`)
DISTILL_MODES: dict[str, tuple[str, dict[str, float | None]]] = {
    "frozen": ("frozen", {"kl": 1.0}),
    "frozen_ce": ("frozen", {"kl": 1.0, "ce": None}),
    "ce": ("none", {"ce": 1.0}),
    "trainable": ("self", {"kl": 1.0}),
}
NONFINITE = ("stop", "skip")
JOINED, APART = "joined", "apart"
TEACHER_PRECISIONS = ("bf16", "fp8", "int8")


@dataclass(frozen=True)
class ImportanceConfig:
    """How channels, heads and layers are ranked where no ranking is given.

    Attributes:
        samples: training sequences that are looked at, the first of the run's data, by all data-parallel ranks
            together.
        ffn: activation (what enters the second linear) or first (the first linear's output).
        aggregation: l2_mean (root of the sum over sequences of the squared mean) or mean.
        experts: mean (of an expert's weight times the norm of what it puts out, over the tokens sent to it) or l2 (the
            root of the mean square).
        depth: mse (iterative: drop the least important layer, recompute) or cosine (one pass).
        depth_samples: of those, the sequences on which dropped layers are measured, by all data-parallel ranks
            together; rounded up, so that each rank measures as many.
    """

    samples: int = 1024
    ffn: str = "activation"
    aggregation: str = "l2_mean"
    experts: str = "mean"
    depth: str = "mse"
    depth_samples: int = 8

    def __post_init__(self) -> None:
        keep_plain(self)
        integer("elastic.importance.samples", self.samples, 1, "at least 1")
        integer("elastic.importance.depth_samples", self.depth_samples, 1, "at least 1")
        for name, allowed in (("ffn", ("activation", "first")), ("aggregation", ("l2_mean", "mean")),
                              ("experts", ("mean", "l2")), ("depth", ("mse", "cosine"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise bad(f"elastic.importance.{name}", getattr(self, name), f"one of {', '.join(allowed)}")


@dataclass(frozen=True)
class SearchConfig:
    """Search over untrained losses, for `shapes: halving` and `shapes: search`.

    Attributes:
        candidates: members tried in all.
        tokens: training tokens on which each candidate is measured, untrained: the mean divergence (KL) of its logits
            from the whole parent's. They are the first of the run's data, in whole sequences of its length, of all
            data-parallel ranks together, of which each measures at least one.
        keep: candidates of a budget that `shapes: halving` trains: the best of different residual width, depth and
            number of experts.
    """

    candidates: int = 256
    tokens: int = 65536
    keep: int = 4

    def __post_init__(self) -> None:
        keep_plain(self)
        integer("elastic.search.candidates", self.candidates, 1, "at least 1")
        integer("elastic.search.tokens", self.tokens, 1, "at least 1")
        integer("elastic.search.keep", self.keep, 1, "from 1 to 8: few that differ, not many alike", 8)


@dataclass(frozen=True)
class HalvingConfig:
    """Successive halving of the candidates in stage 1, for `shapes: halving`.

    Attributes:
        cuts: shares of stage 1's steps at which candidates are compared and the worse half goes. After the last cut
            one candidate of each budget is left, before it at most two, before the one before it at most four.
        tokens: training tokens of a comparison: the last of the run's data, in whole micro-batches of all
            data-parallel ranks together; all where there are fewer.
    """

    cuts: tuple[float, ...] = (0.12, 0.25)
    tokens: int = 65536

    def __post_init__(self) -> None:
        keep_plain(self)
        allowed = "one to three rising shares of stage 1 between 0 and 1"
        if not isinstance(self.cuts, (list, tuple)) or not 1 <= len(self.cuts) <= 3:
            raise bad("elastic.halving.cuts", self.cuts, allowed)
        for before, cut in zip((0.0, *self.cuts), self.cuts, strict=False):
            number("elastic.halving.cuts", cut, 0, 1, allowed)
            if cut < before:
                raise bad("elastic.halving.cuts", list(self.cuts), allowed)
        object.__setattr__(self, "cuts", tuple(self.cuts))
        integer("elastic.halving.tokens", self.tokens, 1, "at least 1")

    def steps(self, steps: int) -> list[int]:
        """The step of each cut in a stage 1 of so many: how many are done when it is made."""
        return [round(cut * steps) for cut in self.cuts]


@dataclass(frozen=True)
class RouterConfig:
    """The trained router of `shapes: router`. Nemotron Elastic's are its MLPs, Gumbel-softmax, tau, scale, soft masks
    (gate: soft) and the budget loss; straight-through masks (gate: hard) and freeze_at below 1 are ours.

    Attributes:
        hidden: width of each axis' MLP.
        lr: its own learning rate. At 1e-2 nearly all is decided within 200 steps (docs: method, when it decides).
        tau: Gumbel-softmax temperature at start and at `freeze_at`, linear between.
        scale: factor on the logits at start and at `freeze_at`, linear between.
        init_std: standard deviation of its initial weights.
        loss_weight: weight of the budget loss |cost/target - 1|: nats for twice the cost. Choices leave the budget
            where members lose more than that.
        gate: soft (expected masks) or hard (straight-through masks).
        freeze_at: fraction of stage 1 after which shapes are projected and frozen and every step is sliced; before it
            every step of a smaller budget runs the whole model under masks.
    """

    hidden: int = 256
    lr: float = 1e-2
    tau: tuple[float, float] = (1.0, 0.05)
    scale: tuple[float, float] = (1.0, 10.0)
    init_std: float = 0.1
    loss_weight: float = 1.0
    gate: str = "soft"
    freeze_at: float = 1.0

    def __post_init__(self) -> None:
        keep_plain(self)
        integer("elastic.router.hidden", self.hidden, 1, "at least 1")
        number("elastic.router.lr", self.lr, 0, 10, "a learning rate from 0 to 10")
        for name in ("tau", "scale"):
            pair = getattr(self, name)
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise bad(f"elastic.router.{name}", pair, "two numbers: at the start and at freeze_at")
            for v in pair:
                number(f"elastic.router.{name}", v, 1e-6, 1e6, "positive numbers")
            object.__setattr__(self, name, tuple(pair))
        number("elastic.router.init_std", self.init_std, 0, 10, "from 0 to 10")
        number("elastic.router.loss_weight", self.loss_weight, 0, 1e6, "at least 0")
        if self.gate not in GATES:
            raise bad("elastic.router.gate", self.gate, f"one of {', '.join(GATES)}")
        number("elastic.router.freeze_at", self.freeze_at, 0, 1, "a fraction of stage 1 from 0 to 1")

    def freeze_step(self, stage_steps: int) -> int:
        """First step of a stage 1 of `stage_steps` that runs on frozen shapes."""
        return round(self.freeze_at * stage_steps)


@dataclass(frozen=True)
class DistillConfig:
    """Training loss: terms, some of which compare with a teacher.

    Attributes:
        teacher: frozen (the parent as it was; the default), self (the whole model as it is: it learns by the terms
            that need no teacher, or by cross-entropy, and teaches the others) or none.
        terms: term -> weight: kl (forward divergence from the teacher), reverse_kl (the member's from the teacher's),
            ce (cross-entropy); {kl: 1} unless given, {ce: 1} without a teacher.
        temperature: of both distributions in kl and reverse_kl; the loss has no T^2 factor.
        top_k: the teacher speaks for its k likeliest tokens only, all others count as one; null for the whole
            vocabulary.
        chunk_tokens: tokens whose logits are held at a time; does not change the loss.
        teacher_precision: weights of the frozen teacher: null keeps the model's own precision, bf16 holds and runs all
            of it in bf16, fp8 (E4M3) and int8 hold the weights of its linear layers in one byte, with a scale per row
            (ModelOpt), made whole layer by layer as they run, embedding and head as they are.
        quantize: null, nvfp4 or fp8 (E4M3): members run, and are validated, with the weights of Mamba layers, MLPs and
            experts rounded to what that format can say, under scales of the parent's weights as they are at that step;
            gradients pass as if nothing was rounded. Weights only: activations keep their precision, and so do the
            frozen teacher, all other weights, attention, and a Mamba layer right before one. Checkpoints and exports
            keep all digits. For stages 2 and 3: stage 1 ranks and learns shapes at full precision.
        mode: a word of version 0.1 for teacher and terms, in place of both: frozen is kl from the frozen teacher,
            frozen_ce that with alpha x ce, ce is ce without a teacher, trainable is kl from self.
        alpha: weight of ce in the mode frozen_ce; 0.5 unless given.
    """

    teacher: str | None = None
    terms: Mapping[str, float] | None = None
    temperature: float = 1.0
    top_k: int | None = None
    chunk_tokens: int = 512
    teacher_precision: str | None = None
    quantize: str | None = None
    mode: str | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        keep_plain(self)
        self._read_mode()
        if self.teacher not in TEACHERS:
            raise bad("elastic.distill.teacher", self.teacher, f"one of {', '.join(TEACHERS)}")
        self._check_terms()
        precision = self.teacher_precision
        if precision is not None and precision not in TEACHER_PRECISIONS:
            allowed = f"null or one of {', '.join(TEACHER_PRECISIONS)}"
            raise bad("elastic.distill.teacher_precision", precision, allowed)
        if precision is not None and self.teacher != "frozen":
            allowed = f"null: distill.teacher is {self.teacher}, not frozen"
            raise bad("elastic.distill.teacher_precision", precision, allowed)
        if self.quantize is not None and self.quantize not in SCHEMES:
            raise bad("elastic.distill.quantize", self.quantize, f"null or one of {', '.join(SCHEMES)}")
        number("elastic.distill.temperature", self.temperature, 1e-3, 1e3, "a positive number")
        if self.top_k is not None:
            integer("elastic.distill.top_k", self.top_k, 1, "at least 1, or null for the whole vocabulary")
        integer("elastic.distill.chunk_tokens", self.chunk_tokens, 1, "at least 1")

    def _read_mode(self) -> None:
        """Teacher and terms, of the mode where one is given; neither it nor its alpha is kept beside them."""
        mode, alpha = self.mode, self.alpha
        if mode is not None:
            if mode not in tuple(DISTILL_MODES):
                raise bad("elastic.distill.mode", mode, f"one of {', '.join(DISTILL_MODES)}")
            if self.teacher is not None or self.terms is not None:
                raise bad("elastic.distill.mode", mode, "left out where teacher or terms are given")
            weight = 0.5 if alpha is None else number("elastic.distill.alpha", alpha, 0, 1e3, "at least 0")
            teacher, terms = DISTILL_MODES[mode]
            object.__setattr__(self, "teacher", teacher)
            object.__setattr__(self, "terms", {n: weight if w is None else w for n, w in terms.items()})
        elif alpha is not None:
            raise bad("elastic.distill.alpha", alpha, "the mode frozen_ce alone; else terms: {kl: 1, ce: 0.5}")
        object.__setattr__(self, "mode", None)
        object.__setattr__(self, "alpha", None)
        if self.teacher is None:
            object.__setattr__(self, "teacher", "frozen")
        if self.terms is None:
            object.__setattr__(self, "terms", {"ce": 1.0} if self.teacher == "none" else {"kl": 1.0})

    def _check_terms(self) -> None:
        terms = self.terms
        if not isinstance(terms, Mapping) or not terms:
            raise bad("elastic.distill.terms", terms, "a mapping term -> weight, e.g. {kl: 1, ce: 0.5}")
        for name, weight in terms.items():
            if name not in TERMS:
                raise bad("elastic.distill.terms", name, f"one of {', '.join(TERMS)}")
            number(f"elastic.distill.terms.{name}", weight, 0, 1e3, "a weight of at least 0")
        object.__setattr__(self, "terms", dict(terms))
        used = [name for name, weight in terms.items() if weight > 0]
        if not used:
            raise bad("elastic.distill.terms", dict(terms), "at least one weight above 0")
        compares = [name for name in used if TERMS[name].teacher]
        if compares and self.teacher == "none":
            allowed = f"frozen or self: the term {compares[0]} compares with a teacher"
            raise bad("elastic.distill.teacher", "none", allowed)
        if not compares and self.teacher != "none":
            raise bad("elastic.distill.teacher", self.teacher, f"none: no term of {', '.join(used)} compares with it")

    @property
    def taught(self) -> bool:
        """Whether there is a teacher at all."""
        return self.teacher != "none"

    def of(self, taught: bool) -> dict[str, float]:
        """Terms of a budget that is compared with a teacher, or of one that is not; with none left, cross-entropy."""
        assert self.terms is not None
        own = {n: w for n, w in self.terms.items() if w > 0 and (taught or not TERMS[n].teacher)}
        return own or {"ce": 1.0}


@dataclass(frozen=True)
class DataConfig:
    """What the run's data is to the family; the data itself is the recipe's.

    Attributes:
        documents: of rows that hold several: apart (Mamba's convolution and state start anew at each document, and
            attention sees its own alone, in teacher and members) or joined (a row is read as one text). null takes
            the host's own convention: packed fine-tuning data is apart, as it carries where documents end;
            pretraining data is joined, as Megatron reads it.
    """

    documents: str | None = None

    def __post_init__(self) -> None:
        keep_plain(self)
        if self.documents not in (None, JOINED, APART):
            raise bad("elastic.data.documents", self.documents, f"one of {JOINED}, {APART}")


@dataclass(frozen=True)
class NonfiniteConfig:
    """A step whose loss or gradients are NaN or infinite.

    Attributes:
        action: stop (one line names step, budget and layer; no weight is changed and nothing saved) or skip (the same
            line; weights and optimizer state stay as they are, the schedule goes on).
        limit: skipped steps in a row with which the run stops all the same.
    """

    action: str = "stop"
    limit: int = 8

    def __post_init__(self) -> None:
        keep_plain(self)
        if self.action not in NONFINITE:
            raise bad("elastic.nonfinite.action", self.action, f"one of {', '.join(NONFINITE)}")
        integer("elastic.nonfinite.limit", self.limit, 1, "at least 1")
