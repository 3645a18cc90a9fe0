# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic specialize --mtp`: a member's MTP layers, trained behind the frozen member."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from nemo_elastic.cli import options
from nemo_elastic.cli.show import counting
from nemo_elastic.data.eval_data import read_eval_data
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.dtypes import FLOATS
from nemo_elastic.formats.folders import open_source
from nemo_elastic.io.outputs import check_output
from nemo_elastic.slicing.prediction import write_trained_prediction
from nemo_elastic.slicing.slicer import MEMBER

if TYPE_CHECKING:
    from nemo_elastic.nn.rows import Rows

#: steps, sequences of a step, inputs of a sequence, and most sequences that acceptance is measured on
STEPS, BATCH, LENGTH, MEASURED = 200, 8, 512, 64
#: of the order of the sequences
SEED = 0


def train_drafts(member: Path, data: Path, out: Path | None, device: str, force: bool, json: bool) -> None:
    """Train the MTP layers, write the member with them, and print how many drafts it accepts."""
    import torch

    from nemo_elastic.evaluation import accepted_drafts, predictor_of
    from nemo_elastic.nn.forward import Layers
    from nemo_elastic.runtime import load_family
    from nemo_elastic.runtime.storage import check_device
    from nemo_elastic.train.prediction import train_prediction

    if out is None:
        raise bad("--out", None, "the folder for the member, with --mtp")
    source = open_source(member)
    _check(source)
    check_output(out, force, member, data, kind=MEMBER)
    check_device(device, "--device")
    measured, batches = _sequences(data, source, json)
    weights = load_family(source, device=device).select().weights
    predictor = predictor_of(source, source.subnet, device, torch.float32)
    assert predictor is not None, "_check has looked"
    before = accepted_drafts(weights, predictor, measured, BATCH)
    losses = []
    with counting("training", json) as bar:
        for loss in train_prediction(Layers(weights), predictor, batches):
            losses.append(loss)
            bar(len(losses), STEPS, f"KL {loss:.4f}")
    after = accepted_drafts(weights, predictor, measured, BATCH)
    trained = {"data": str(data), "seed": SEED, "steps": STEPS, "tokens": int(sum(rows.counted for rows in batches))}
    figures = {"before": before.to_json(), "after": after.to_json(), "kl": [losses[0], losses[-1]]}
    state = {name: weight.detach().cpu() for name, weight in predictor.state.items()}
    write_trained_prediction(source, out, state, trained | figures, force=force)
    if json:
        options.print_json({"out": str(out)} | trained | figures)
        return
    shares = f"{before.share:.4f} of its drafts before, {after.share:.4f} after"
    typer.echo(f"{out}: trained {len(state)} MTP tensors; on {after.total:,} tokens the member accepts {shares}")


def _check(source: Checkpoint) -> None:
    """Refuse a folder that has no MTP layers to train."""
    if source.family is not None:
        raise ElasticError("--mtp: is a family; cut a member with `nemo-elastic slice` first", source.folder)
    if source.prediction is None or not source.mtp:
        raise ElasticError("--mtp: has no layers that predict further tokens (MTP)", source.folder)
    low = next((name for name in source.mtp if name in source.storage or source.tensors[name].dtype not in FLOATS), "")
    if low:
        raise ElasticError(f"--mtp: {low} is in low precision; train the member before quantize", source.folder)


def _sequences(data: Path, source: Checkpoint, quiet: bool) -> tuple[list[Rows], list[Rows]]:
    """Sequences of the training part of the data: some to measure on, and the others as a batch for each step."""
    from nemo_elastic.nn.rows import Rows

    most = STEPS * BATCH + MEASURED
    text = read_eval_data(data, source, "train", most * LENGTH)
    for line in () if quiet else text.notes:
        typer.echo(line, err=True)
    windows = (w for each in text.sample(LENGTH + 1, most) for w in Rows.windows(each.ids, each.counts, LENGTH))
    useful = [*islice((w for w in windows if float(w.inputs().every_count()[:, 1:].sum())), most)]
    if len(useful) < 2:
        raise bad("--data", str(data), f"two sequences of {LENGTH} tokens, one to train and one to measure on")
    order = np.random.default_rng(SEED).permutation(len(useful)).tolist()
    held = min(MEASURED, len(order) // 4 or 1)
    measured, rest = order[:held], order[held:]
    numbers = [rest[at % len(rest)] for at in range(STEPS * BATCH)]
    batches = [numbers[at : at + BATCH] for at in range(0, len(numbers), BATCH)]
    return [useful[i] for i in measured], [Rows.joined([useful[i] for i in batch]).inputs() for batch in batches]
