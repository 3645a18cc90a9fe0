# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal of a recipe on NeMo may change."""

from __future__ import annotations

#: why -> settings that a rehearsal may change for it, as patterns of dotted names behind the job's
DECLARED: dict[str, tuple[str, ...]] = {
    "widths and vocabulary": (
        r"model\.config\.(hidden_size|ffn_hidden_size|mamba_num_heads|mamba_head_dim|mamba_state_dim)",
        r"model\.config\.(num_attention_heads|kv_channels|vocab_size)",
        r"model\.elastic\.axes\.\w+\.choices\[\d+\]",
        r"model\.elastic\.budgets\[\d+\]\.(params|active_params|memory\.size)",
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
