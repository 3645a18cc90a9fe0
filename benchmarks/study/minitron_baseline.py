# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The strongest baseline: ModelOpt 0.47 searches the shape, then NeMo distills what it has cut, once per size.

ModelOpt 0.47 takes hybrid models of megatron-core 0.19 alone, so it runs in Megatron-Bridge's environment, that of
`make .venv-bridge/.stamp` or the one whose python `NEMO_ELASTIC_BRIDGE_PYTHON` names. What it leaves becomes a NeMo
checkpoint of the parent's classes, and is distilled by `modelopt_baseline.distill` like that of its predecessor.

Theirs: the importance, the space (widths within 40 %, depth within 20 % of the parent's), the bound on parameters and
the choice among the largest that meet it. Ours: steps of widths as fine as the other baseline's, and what a candidate
is scored by, which is what our search goes by: the same loss on the same tokens, for as many candidates per size.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.modelopt_baseline import ROOT, SAMPLES, SEED, prune_apart
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import bad
from nemo_elastic.io.outputs import atomic_dir

#: variable that names the python of Megatron-Bridge's environment
PYTHON = "NEMO_ELASTIC_BRIDGE_PYTHON"


def bridge_python() -> str:
    """The python of Megatron-Bridge's environment.

    Raises:
        ElasticError: there is none.
    """
    # a link into an environment must not be resolved
    python = os.path.abspath(os.environ.get(PYTHON) or ROOT / ".venv-bridge/bin/python")
    if not os.access(python, os.X_OK):
        raise bad(PYTHON, python, "the python of Megatron-Bridge's environment: make .venv-bridge/.stamp")
    return python


def prune_by_search(
    parent_checkpoint: str | Path,
    out: str | Path,
    parameters: int,
    *,
    data: str | Path,
    seq_length: int,
    score_tokens: int,
    top_k: int,
    samples: int = SAMPLES,
    seed: int = SEED,
) -> Path:
    """Let ModelOpt search a shape and cut it out of a NeMo checkpoint.

    Args:
        parent_checkpoint: NeMo checkpoint of a Nemotron-H.
        out: checkpoint to write, of the parent's classes with the new sizes; beside its weights, `pruned.json` tells
            what was measured, scored and cut.
        parameters: the most that it may have.
        data: folder made by `nemo-elastic data`.
        seq_length: tokens per sequence.
        score_tokens: tokens that a candidate is scored on: the first of the training, as in our search.
        top_k: candidates that are scored.
        samples: first training sequences that importance is measured on.
        seed: of their order.

    Raises:
        ElasticError: there is no environment of Megatron-Bridge.
        RuntimeError: it failed; the message ends with what it printed.
    """
    python = bridge_python()
    with tempfile.TemporaryDirectory() as place:
        tokens = training_tokens(data, seq_length, samples, seed)
        job = {"parent": str(Path(parent_checkpoint).resolve()), "parameters": parameters, "top_k": top_k,
               "out": str(Path(place, "pruned"))}  # fmt: skip
        for name, some in (("importance", tokens), ("score", tokens[: max(1, score_tokens // seq_length)])):
            job[name] = str(Path(place, f"{name}.npy"))
            np.save(Path(place, name), some)
        prune_apart(python, "benchmarks.study.minitron_search", job, place, f"{parameters} parameters")
        with atomic_dir(out, force=False) as folder:
            write_checkpoint(folder, Path(job["out"]), Path(parent_checkpoint), Path(place))
            shutil.copy(Path(job["out"], "pruned.json"), folder)
    return Path(out)


def training_tokens(data: str | Path, seq_length: int, sequences: int, seed: int) -> np.ndarray:
    """[n, s]: the first training sequences of a run with this order."""
    import fiddle

    from nemo_elastic.hosts.nemo.folder_data import pretraining_data
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    module = fiddle.build(
        pretraining_data(
            data,
            seq_length=seq_length,
            micro_batch_size=1,
            global_batch_size=1,
            num_train_samples=sequences,
            seed=seed,
        )
    )
    module.build(sequences, trainer_val_check_interval=sequences, trainer_limit_val_batches=0,
                 trainer_limit_test_batches=0)  # fmt: skip
    return dataset_tokens(module._train_ds, sequences)[0].cpu().numpy()


def write_checkpoint(folder: Path, pruned: Path, parent: Path, place: Path) -> None:
    """What the search left as a NeMo checkpoint: its weights, and the parent's context with the sizes that it has."""
    import torch
    from nemo.lightning import io
    from nemo.lightning.ckpt_utils import ckpt_to_context_subdir

    from nemo_elastic.formats.megatron.shape import stock_sizes
    from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint
    from tests.support.states import from_megatron

    shape = Parent.from_json(facts(pruned)["sizes"])
    tensors = from_megatron(shape, shape.full, torch.load(pruned / "weights.pt", weights_only=True))
    # of stock classes, which a CPU cannot run: the weights are right, the context is the parent's
    stock = write_nemo_checkpoint(place / "stock", shape, shape.full, tensors)
    shutil.move(stock / "weights", folder / "weights")
    context: Any = io.load_context(path=ckpt_to_context_subdir(parent))
    config = context.model.__io__.config
    sizes = stock_sizes(shape, shape.full)
    for field in sizes.keys() - {"vocab_size", "layernorm_epsilon", "share_embeddings_and_output_weights"}:
        setattr(config, field, sizes[field])
    context.io_dump(folder / "context", yaml_attrs=["model"])


def facts(pruned: str | Path) -> Mapping[str, Any]:
    """What the search wrote down: modelopt (its version), sizes, parameters, within (how many met the
    bound), candidates (those scored), measured_tokens, scored_tokens (of each), cpu_seconds (without imports).
    """
    return json.loads(Path(pruned, "pruned.json").read_text())
