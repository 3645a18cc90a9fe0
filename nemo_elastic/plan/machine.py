# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The machine and the run that a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer, keep_plain, number

from .activations import ROUTING, Routing

__all__ = ["EFFICIENCY", "EXPERT_EFFICIENCY", "GPUS", "MARGIN", "NODE", "SLOW", "SUMS", "TAKEN", "Gpu", "RunShape"]

#: bytes that are gone before torch allocates anything: CUDA's context, about 0.5e9, and the buffers of NCCL's
#: communicators, some 0.5e9 for each of the four that a training has. An assumption.
TAKEN = 2.5e9
#: share of the rest that a plan leaves free: kernels' workspace, fragmentation, and what the formulas miss. An
#: assumption; nobody has measured it for these models.
MARGIN = 0.08
#: share of the peak rate that matrix products, norms and the scan reach together, of dense models and of those with
#: experts. Assumptions, as high as whole steps are published for H100 in bf16 (Megatron-Bridge,
#: examples/model_verification_cards, July 2026): Nano-3 4B, pretraining at 4,096 tokens, 402 TFLOP/s; Nemotron 3.5
#: Lightning 30B-A3B, real data at 8,192 tokens, 200 TFLOP/s (400 with tokens dealt out to experts evenly by force).
EFFICIENCY = 0.4
EXPERT_EFFICIENCY = 0.2
#: the least that is published for whole steps, without recomputation. Distillation by ModelOpt on 768 H100 at 8,192
#: tokens (tutorials of August 2026): Nano-9B-v2 to 7B, 600 GPU-hours for 6.3B tokens; Nano-3 30B-A3B to A3.0B, 900 for
#: 10B. Dense beyond 16,384 tokens: fine-tuning of Nano-3 4B at 32,768, 142 TFLOP/s (the cards above).
SLOW = {"dense": 0.17, "experts": 0.076, "long": 0.14}
#: GPUs of a node, which NVLink connects: tensor parallelism stays inside
NODE = 8
#: what gradients can be summed in -> bytes: the buffer of DistributedDataParallel, and what ranks reduce
SUMS = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. Source: the vendor's data sheets, SXM versions; of B200 the memory as torch reports it and the
    bandwidth of its 7,680-bit bus (pytorch/ao#4002), of GB200 the memory in the same proportion.

    Attributes:
        memory: bytes, as CUDA reports them (`torch.cuda.get_device_properties`), which are more than the name says.
        flops: dense bf16 FLOP/s.
        bandwidth: bytes/s of its memory.
        nvlink: bytes/s to the other GPUs of a node, in one direction.
        network: bytes/s to other nodes: one 400 Gb/s port per GPU, as in DGX systems, 200 Gb/s on A100.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    nvlink: float = 450e9
    network: float = 50e9


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 85.0e9, 312e12, 2.04e12, 300e9, 25e9),
        Gpu("h100", 85.0e9, 989e12, 3.35e12),
        Gpu("h200", 150.1e9, 989e12, 4.8e12),
        Gpu("b200", 191.5e9, 2250e12, 7.7e12, 900e9),
        Gpu("gb200", 197.9e9, 2500e12, 7.7e12, 900e9),
    )
}


@dataclass(frozen=True)
class RunShape:
    """A run: lengths, batches and machine.

    Attributes:
        seq_length: tokens per sequence.
        global_batch: sequences per optimizer step.
        micro_batch: sequences per forward of one rank.
        gpus: number of GPUs.
        gpu: their kind, a key of `GPUS`.
        stage: 1 finds shapes, 2 and 3 train them; a router's masks run the whole model until `router.freeze_at`.
        kernels: mamba_ssm's kernels are installed (without, the scan runs in torch and takes more for a moment).
        node: GPUs of a node. Those of a run are in one node, or fill all of theirs.
        margin: share of each GPU's memory that stays free.
        gradients: what those of micro-batches and of ranks are summed in, a key of `SUMS`.
        routing: how tokens find experts, where there are any.
    """

    seq_length: int
    global_batch: int
    micro_batch: int = 1
    gpus: int = 8
    gpu: str = "h100"
    stage: int = 1
    kernels: bool = True
    node: int = NODE
    margin: float = MARGIN
    gradients: str = "fp32"
    routing: Routing = ROUTING

    def __post_init__(self) -> None:
        keep_plain(self)
        for name in ("seq_length", "global_batch", "micro_batch", "gpus", "node"):
            integer(_option(name), getattr(self, name), 1, "a positive integer")
        if self.gpus > self.node and self.gpus % self.node:
            raise bad("--gpus", self.gpus, f"at most {self.node}, or a multiple of {self.node}: GPUs fill their nodes")
        number("margin", self.margin, 0.0, 0.9, "a number from 0 to 0.9")
        number("routing.load", self.routing.load, 1.0, 100.0, "a number from 1 to 100")
        if self.gpu not in GPUS:
            raise bad("--gpu", self.gpu, f"one of {', '.join(GPUS)}")
        if self.gradients not in SUMS:
            raise bad("gradients", self.gradients, f"one of {', '.join(SUMS)}")
        if self.stage not in (1, 2, 3):
            raise bad("--stage", self.stage, "1, 2 or 3")
        if self.global_batch % self.micro_batch:
            raise bad("micro_batch", self.micro_batch, f"a divisor of the global batch {self.global_batch}")

    @property
    def usable(self) -> float:
        """Bytes of a GPU that a plan may fill."""
        return (1 - self.margin) * (GPUS[self.gpu].memory - TAKEN)

    @property
    def tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.seq_length * self.global_batch


def _option(name: str) -> str:
    """A field as the command line has it, where it does."""
    return {"seq_length": "--seq-length", "global_batch": "--global-batch-size", "gpus": "--gpus"}.get(name, name)
