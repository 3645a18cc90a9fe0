# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The process that prunes: ModelOpt's `mcore_minitron` through NeMo, made ready for a CPU first (`modelopt_layers`).

    python -m benchmarks.study.modelopt_prune JOB.json

What `llm.prune` does, whose loader names a GPU, bf16 and TransformerEngine: load with a prunable spec, measure and cut
by `prune_language_model`, save by `save_pruned_model`. `modelopt_baseline.prune` starts it; it writes into the working
directory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

#: sequences per forward of the importance estimation
BATCH = 8


def main(job: dict[str, Any]) -> None:
    """Prune `job["parent"]` to `job["targets"]` and write `job["out"]`; the keys are `modelopt_baseline.prune`'s."""
    from benchmarks.study.modelopt_layers import pattern_of, prepare_modelopt

    prepare_modelopt()
    from nemo_elastic.demo.quiet import quiet

    quiet()
    import fiddle
    from nemo.collections.llm.modelopt.prune import PruningConfig, pruner

    from benchmarks.study.modelopt_targets import DIVISORS
    from nemo_elastic.hosts.nemo.folder_data import pretraining_data
    from nemo_elastic.io.outputs import atomic_dir
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    used = time.process_time()  # imports are start-up, not work, here as for every other job
    batch = min(BATCH, job["samples"])
    steps = job["samples"] // batch
    config = pretraining_data(
        job["data"],
        seq_length=job["seq_length"],
        micro_batch_size=batch,
        global_batch_size=batch,
        num_train_samples=steps * batch,
        seed=job["seed"],
    )
    data = fiddle.build(config)
    model, trainer = _load(job["parent"], steps)
    core, original = model.module, pruner.mtp.prune
    while hasattr(core, "module"):
        core = core.module

    def with_divisors(*args: Any, mode: str, **kwargs: Any) -> Any:
        return original(*args, mode=[(mode, {"megatron.core.models.mamba.MambaModel": DIVISORS})], **kwargs)

    before = pattern_of(core.decoder.layers)
    with cuda_as_cpu(), mock.patch.object(pruner.mtp, "prune", with_divisors):
        pruner.prune_language_model(model, PruningConfig(**job["targets"]), data, trainer)
        facts = {
            "targets": job["targets"],
            "pattern": pattern_of(core.decoder.layers),
            "parent_pattern": before,
            "parameters": sum(p.numel() for p in core.parameters()),
            "measured_tokens": steps * batch * job["seq_length"],
        }
        # NeMo saves the pruned sizes, but the parent's pattern, which a model with fewer layers cannot be built from
        model.__io__.config.hybrid_override_pattern = facts["pattern"]
        with atomic_dir(job["out"], force=False) as folder:
            pruner.save_pruned_model(trainer, str(folder))
            facts["cpu_seconds"] = time.process_time() - used
            (folder / "pruned.json").write_text(json.dumps(facts, indent=2) + "\n")


def _load(checkpoint: str, steps: int) -> tuple[Any, Any]:
    """Model with a prunable spec and the checkpoint's weights, and a trainer that validates `steps` batches."""
    import torch
    from nemo import lightning as nl
    from nemo.collections.llm.inference.base import _setup_trainer_and_restore_model
    from nemo.lightning import io
    from nemo.lightning.ckpt_utils import ckpt_to_context_subdir

    from benchmarks.study.modelopt_layers import prunable_stack_spec
    from nemo_elastic.hosts.nemo.platform.strategy import strategy_class
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    strategy = strategy_class()(
        ckpt_load_optimizer=False,
        ckpt_parallel_save_optim=False,
        setup_optimizers=False,
        ddp="pytorch",
        replace_progress_bar=False,
    )
    trainer = nl.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        strategy=strategy,
        plugins=nl.MegatronMixedPrecision(precision="32", params_dtype=torch.float32),
        max_steps=steps,
        limit_val_batches=steps,
        val_check_interval=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model: Any = io.load_context(path=ckpt_to_context_subdir(checkpoint), subpath="model")
    model.config.mamba_stack_spec = prunable_stack_spec
    if hasattr(model, "optim"):
        del model.optim
    with cuda_as_cpu():
        _setup_trainer_and_restore_model(Path(checkpoint), trainer, model)
    strategy.restore_config = None
    return model, trainer


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
