# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal of a recipe on Megatron-Bridge may change."""

from __future__ import annotations

#: why -> settings that a rehearsal may change for it, as patterns of dotted names behind the job's
DECLARED: dict[str, tuple[str, ...]] = {
    "widths and vocabulary": (
        r"model\.(hidden_size|ffn_hidden_size|mamba_num_heads|mamba_head_dim|mamba_state_dim|num_attention_heads)",
        r"model\.(kv_channels|vocab_size)",
        r"model\.(num_moe_experts|moe_ffn_hidden_size|moe_shared_expert_intermediate_size)",
        r"optimizer_config_override_provider\.elastic\.axes\.\w+\.choices\[\d+\]",
        r"optimizer_config_override_provider\.elastic\.budgets\[\d+\]\.(params|active_params|memory\.size)",
        r"tokenizer\.(tokenizer_type|tokenizer_model|vocab_size)",
    ),
    "lengths": (r"(dataset|model)\.seq_length", r"dataset\.sequence_length"),
    "batch": (r"train\.global_batch_size",),
    "steps": (
        r"train\.train_iters",
        r"steps",
        r"scheduler\.(lr_warmup_iters|lr_decay_iters)",
        r"rates\.(total_steps|warmup_steps|start_step|freeze_step)",
        r"optimizer_config_override_provider\.elastic\.importance\.(samples|depth_samples)",
        r"optimizer_config_override_provider\.elastic\.search\.(candidates|tokens)",
    ),
    "intervals": (r"validation\.eval_interval", r"checkpoint\.save_interval"),
    "paths": (
        r"dataset\.(blend|blend_per_split|split|path_to_cache)(\[.*)?",
        r"checkpoint\.(load|save|pretrained_checkpoint)",
        r"logger\.tensorboard_dir",
        r"(teacher|previous|out|metrics|dir)",
    ),
    "number of ranks": (
        r"model\.(tensor|pipeline|expert)_model_parallel_size",
        r"model\.(sequence_parallel|variable_seq_lengths)",
        r"dataset\.(num_workers|persistent_workers)",
    ),
    "what it writes down": (r"callbacks",),
    "a CPU's kernels": (r"dist\.distributed_backend",),
}
