# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a study in plain torch is made on: a trained parent, the text of its family, and which shapes members may have.

`problems` is a third of a million parameters, trained here. `demo` is the parent of `make demo`, and
`5m` one of five million parameters that is trained here; both read the demo's text, a folder of `nemo-elastic data`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import problems
from benchmarks.study.problems import PARENT, MicroBatch
from benchmarks.study.results import held_out_parts
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import tensors
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.errors import bad
from nemo_elastic.formats.folders import open_source
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.train.members import Members
from nemo_elastic.train.shaping import prepare_members
from nemo_elastic.train.training import FamilyTraining
from tests.train.torch_host import TorchHost

#: sequences that a ranking looks at
RANKED = 64
#: tokens of a row of text, and rows of a micro-batch
LENGTH, BATCH = 128, 16
LARGE = Parent("M-M*-M-M*-", 256, 1024, 1280, 16, 32, 4, 16, 4, 8, 2, 32, ffn_stripes=8)
#: peak rate of a parent, and the share of a run in which rates rise
PARENT_LR, WARM = 3e-3, 0.05
#: of whole blocks of NVFP4 in each stripe and group
PROBLEM_AXES = problems.AXES | {"ffn": [256, 128]}
DEMO_AXES = {"hidden": [128, 112, 96, 80], "ffn": [512, 384, 256], "mamba_heads": [16, 12, 8], "depth": [12, 11, 10]}
LARGE_AXES = {
    "hidden": [256, 224, 192, 160],
    "ffn": [1280, 1024, 768],
    "mamba_heads": [16, 12, 8],
    "depth": [10, 9, 8],
}


@dataclass(frozen=True)
class Ground:
    """Of a study.

    Attributes:
        parent: the trained parent.
        axes: choices of each axis.
        batches: (seed, held out) -> micro-batches without end; `TUNED` and `REPORTED` are parts of what is held out.
        lr: peak rate of its family's training.
        held_out: micro-batches that losses are measured on.
        of: of what losses are measured, in words.
    """

    parent: NemotronH
    axes: Mapping[str, Any]
    batches: Callable[..., Iterator[MicroBatch]]
    lr: float
    of: str
    held_out: int = 10

    @property
    def shape(self) -> Parent:
        """The parent's."""
        return self.parent.parent


def config_of(ground: Ground, budgets: Mapping[str, Any], seed: int, **more: Any) -> ElasticConfig:
    """A block of budgets; `more` are its own fields.

    A budget is a share of the parent's parameters, a limit in the block's own words, or None for the parent.
    """
    limits = {name: each if isinstance(each, Mapping) else {"ratio": each} for name, each in budgets.items() if each}
    own = [{"name": name, **limits.get(name, {})} for name in budgets]
    return ElasticConfig.from_dict({
        "budgets": own, "axes": ground.axes, "importance": {"samples": RANKED, "depth_samples": 8}, "shapes": "even",
        "seed": seed, **more,
    })  # fmt: skip


def prepared(ground: Ground, config: ElasticConfig, out: Path) -> tuple[TorchHost, Members]:
    """The parent, ranked and sorted, and the members' shapes; `out` gets the ranking."""
    source = ground.batches(200 + config.seed)
    first = next(source).tokens_bs
    rest = islice(source, -(-RANKED // len(first)) - 1)
    ranked = torch.cat([first, *(rows.tokens_bs for rows in rest)])
    host = TorchHost(ground.shape, ground.parent.state_dict(), ranked, len(first))
    family = FamilyTraining(config, stage=2)
    family.members = Members(ground.shape, len(config.budgets), None)
    prepare_members(family, host, out)
    return host, family.members


# ------------------------------------------------------------------------------------------------------------ training


def fresh(seed: int, shape: Parent = PARENT) -> NemotronH:
    """A parent to train: norms of 1, and what layers add is small at first."""
    state = NemotronH.random(shape, seed).state_dict()
    for t in tensors(shape, shape.full):
        if "norm" in t.row.name:
            state[t.hf] = torch.ones_like(state[t.hf])
        elif t.row.name.endswith(("out_proj", "down", "attention.out")):
            state[t.hf] = state[t.hf] / math.sqrt(2 * shape.num_layers)
    return NemotronH(shape, state)


def rate(done: float) -> float:
    """Share of the peak rate after a share of the FLOPs: warm-up, then a cosine to a tenth."""
    return min(1.0, done / WARM + 0.02) * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done))))


def optimizer_of(model: NemotronH) -> torch.optim.AdamW:
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wide] for wide in (True, False))
    return torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95))


def step(model: NemotronH, optimizer: torch.optim.AdamW, loss: torch.Tensor, lr: float) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


def trained(model: NemotronH, data: Iterator[MicroBatch], steps: int) -> NemotronH:
    """A parent, by cross-entropy on the tokens that count."""
    optimizer = optimizer_of(model)
    for i in range(steps):
        rows = next(data)
        logits = model(rows.tokens_bs).flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits, rows.labels_bs.flatten(), reduction="none")
        weights = rows.mask_bs.flatten()
        step(model, optimizer, (losses * weights).sum() / weights.sum(), PARENT_LR * rate(i / steps))
    return model


def divergences(host: TorchHost, member: Subnet, source: Iterator[MicroBatch], count: int = 10) -> tuple[float, float]:
    """KL(parent || member) and KL(member || parent), nats per token that counts of so many micro-batches."""
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for rows in islice(source, count):
            p, q = (m.log_softmax(-1) for m in (host.frozen(rows.tokens_bs), host.model(rows.tokens_bs, member)))
            each = (p.exp() * (p - q)).sum(-1), (q.exp() * (q - p)).sum(-1), torch.ones_like(rows.mask_bs)
            sums += torch.stack([(e * rows.mask_bs).sum() for e in each]).double()
    return float(sums[0] / sums[2]), float(sums[1] / sums[2])


# ------------------------------------------------------------------------------------------------------------ grounds


def text_batches(data: DataFolder) -> Callable[..., Iterator[MicroBatch]]:
    """Windows of a folder's text at random places, each token of which counts."""

    train, val = (torch.tensor(data.tokens(split).astype("int64")) for split in ("train", "val"))
    splits = {False: train, True: val, **held_out_parts(val)}

    def batches(seed: int, held_out: bool | str = False) -> Iterator[MicroBatch]:
        tokens, random = splits[held_out], torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(tokens) - LENGTH, (BATCH,), generator=random)
            ids = torch.stack([tokens[at : at + LENGTH + 1] for at in starts.tolist()])
            yield MicroBatch(ids[:, :-1], ids[:, 1:], torch.ones(BATCH, LENGTH))

    return batches


def windows(tokens: torch.Tensor, seed: int, count: int, length: int) -> torch.Tensor:
    """Windows [count, length] at random places of a text."""
    random = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(tokens) - length, (count,), generator=random)
    return torch.stack([tokens[at : at + length] for at in starts.tolist()])


def _problems(runs: Path, steps: int, demo: Path) -> Ground:
    parent = _kept(runs / "parent.pt", PARENT, problems.batches, steps)
    return Ground(parent, PROBLEM_AXES, problems.batches, problems.LR, "answers that no training saw")


def _demo(runs: Path, steps: int, demo: Path) -> Ground:
    source, data = open_source(demo / "parent_hf"), DataFolder.open(demo / "data")
    state = {name: raw.torch().float() for name, raw in source.tensors.items()}
    shape = replace(source.parent, ffn_stripes=8)
    return Ground(NemotronH(shape, state), DEMO_AXES, text_batches(data), 5e-4, "held-out text", 4)


def _large(runs: Path, steps: int, demo: Path) -> Ground:
    batches = text_batches(DataFolder.open(demo / "data"))
    return Ground(_kept(runs / "parent_5m.pt", LARGE, batches, steps), LARGE_AXES, batches, 5e-4, "held-out text", 4)


def _kept(file: Path, shape: Parent, batches: Callable[..., Iterator[MicroBatch]], steps: int) -> NemotronH:
    """A parent as an earlier run left it, or trained now."""
    if not file.exists():
        torch.save(trained(fresh(0, shape), batches(100), steps).state_dict(), file)
    return NemotronH(shape, torch.load(file))


#: name -> (folder of the runs, steps of a parent that is trained here, folder of `make demo`) -> it
GROUNDS: Mapping[str, Callable[[Path, int, Path], Ground]] = {"problems": _problems, "demo": _demo, "5m": _large}
#: name -> folders of the demo that it reads
READ: Mapping[str, tuple[str, ...]] = {"problems": (), "demo": ("data", "parent_hf"), "5m": ("data",)}


def options(
    parser: argparse.ArgumentParser, default: str, parent_steps: int, choices: Iterable[str] = GROUNDS
) -> None:
    """Which ground a study is made on."""
    parser.add_argument("--ground", choices=tuple(choices), default=default)
    parser.add_argument("--parent-steps", type=int, default=parent_steps, help="where the parent is trained here")


def ground_of(args: argparse.Namespace) -> Ground:
    """The ground that was asked for, its parent trained now if no earlier call has.

    Raises:
        ElasticError: the ground is the demo's parent or text, and no demo has run.
    """
    missing = next((name for name in READ[args.ground] if not (args.demo / name).is_dir()), None)
    if missing is not None:
        raise bad("--demo", str(args.demo), f"a folder of `make demo`, which makes its {missing}/ in ten minutes")
    return GROUNDS[args.ground](args.runs, args.parent_steps, args.demo)
