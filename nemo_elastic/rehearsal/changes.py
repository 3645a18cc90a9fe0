# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal changes: found by comparing its jobs with the recipe's own, and allowed only where declared here.

A setting that a recipe gains, and that its rehearsal loses, is therefore an error and no silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.nemo.recipe.settings import settings

#: why -> settings that a rehearsal may change for it, as patterns of dotted names behind the job's
DECLARED: dict[str, tuple[str, ...]] = {
    "widths and vocabulary": (
        r"model\.config\.(hidden_size|ffn_hidden_size|mamba_num_heads|mamba_head_dim|mamba_state_dim)",
        r"model\.config\.(num_attention_heads|kv_channels|vocab_size)",
        r"model\.elastic\.axes\.\w+\.choices\[\d+\]",
        r"model\.elastic\.budgets\[\d+\]\.(params|memory\.size)",
        r"(model|data)\.tokenizer(\..*)?",
    ),
    "lengths": (r"(data|model\.config)\.seq_length",),
    "batch": (r"data\.global_batch_size",),
    "steps": (
        r"trainer\.max_steps",
        r"data\.num_train_samples",
        r"model\.stage_steps",
        r"trainer\.callbacks\[MetricsWriter\]\.total",
        r"optim\.lr_scheduler\.(total_steps|warmup_steps|start_step|freeze_step)",
        r"model\.elastic\.importance\.(samples|depth_samples)",
        r"model\.elastic\.search\.(candidates|tokens)",
    ),
    "intervals": (r"trainer\.(val_check_interval|limit_val_batches)", r"log\.ckpt\.every_n_train_steps"),
    "paths": (
        r"(data\.paths.*|data\.split|data\.index_mapping_dir|model\.teacher|log\.explicit_log_dir)",
        r"resume\.restore_config\.path",
        r"trainer\.callbacks\[\w+\]\.(out|path|checkpoint)",
        r"(checkpoint|out|ranking)",
    ),
    "number of ranks": (
        r"trainer\.(devices|num_nodes)",
        r"trainer\.strategy\.(tensor_model_parallel_size|pipeline_model_parallel_size|sequence_parallel)",
        r"data\.(num_workers|persistent_workers)",
    ),
    "what it writes down": (r"trainer\.callbacks", r"trainer\.callbacks\[Watch\](\.stop_after)?"),
    "a CPU's kernels": (
        r"trainer\.accelerator",
        r"trainer\.strategy",
        r"model\.config\.(use_cpu_initialization|apply_rope_fusion|bias_dropout_fusion|cross_entropy_loss_fusion)",
        r"model\.config\.(gradient_accumulation_fusion|masked_softmax_fusion|persist_layer_norm)",
    ),
}


@dataclass(frozen=True)
class Change:
    """One setting of a job that has another value in its rehearsal.

    Attributes:
        name: the job's name, and the setting's behind a colon.
        before, after: as the recipe has it, and its rehearsal; None where absent.
        why: key of `DECLARED`.
    """

    name: str
    before: Any
    after: Any
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "before": self.before, "after": self.after, "why": self.why}


def changes(recipe: Mapping[str, Any], rehearsal: Mapping[str, Any]) -> list[Change]:
    """Every setting of the recipe's jobs that the jobs of its rehearsal have otherwise.

    Args:
        recipe: the recipe's jobs by name, as it builds them.
        rehearsal: those of the rehearsal; others than the recipe's are passed over.

    Raises:
        ElasticError: a setting that is not declared, or a job that is not rehearsed.
    """
    found, other = [], []
    for job, task in recipe.items():
        if job not in rehearsal:
            raise ElasticError(f"rehearsal: the recipe's job {job} is not in it")
        before, after = settings(task), settings(rehearsal[job])
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) == after.get(name):
                continue
            why = reason(name)
            found.append(Change(f"{job}: {name}", before.get(name), after.get(name), why or ""))
            if why is None:
                other.append(found[-1])
    if other:
        told = "; ".join(f"{c.name} is {c.after!r}, in the recipe {c.before!r}" for c in other[:5])
        raise ElasticError(f"rehearsal: changes what it does not declare: {told}")
    return found


def reason(name: str) -> str | None:
    """Why a setting may be changed, or None where it may not."""
    for why, patterns in DECLARED.items():
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            return why
    return None
