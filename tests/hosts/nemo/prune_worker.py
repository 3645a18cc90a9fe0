# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Prunes a tiny Nemotron-H with ModelOpt's `mcore_minitron` and saves it with NeMo's own code; a process of its own.

    python -m tests.hosts.nemo.prune_worker FOLDER

FOLDER gets a NeMo checkpoint, `checkpoint`, and `logits.npz` with tokens [b, s] and the pruned model's logits.

ModelOpt takes Mamba layers only where `mamba_ssm` can be imported, and needs norms as modules of their own. So it is
made to believe that there is one, and the layers are those of `stock_spec` in plain torch, with norms of their own.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path

import megatron.core.ssm.mamba_mixer as mm
import numpy as np
import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.ssm.mamba_block import MambaStackSubmodules
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from tests.hosts.nemo.cutting import write_words
from tests.hosts.nemo.stock_spec import GatedNorm, Mixer, Norm, Stack

WAY = {
    "num_layers": 6,
    "hidden_size": 48,
    "ffn_hidden_size": 64,
    "mamba_num_heads": 6,
    "mamba_head_dim": 12,
    "num_attention_heads": 4,
    "num_query_groups": 2,
}
PATTERN = "M-M*-M*-"
TOKENS, ROWS = 70, 72  # the vocabulary is padded
#: small enough for the widths above; ModelOpt's own are made for large models
DIVISORS = {
    "hidden_size_divisor": 8,
    "ffn_hidden_size_divisor": 8,
    "mamba_num_heads_divisor": 2,
    "mamba_head_dim_divisor": 4,
    "num_heads_per_group_divisor": 1,
    "num_query_groups_divisor": 1,
}


def prunable_spec() -> ModuleSpec:
    """As megatron-core's ModelOpt spec with TransformerEngine: norms apart, saved under the names of fused ones."""
    linears = {"linear_fc1": ColumnParallelLinear, "linear_fc2": RowParallelLinear}
    attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear, core_attention=DotProductAttention, linear_proj=RowParallelLinear
    )
    projections = mm.MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear)
    names = {
        "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
        "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
    }
    add = get_bias_dropout_add
    return ModuleSpec(
        Stack,
        submodules=MambaStackSubmodules(
            mamba_layer=ModuleSpec(
                MambaLayer,
                submodules=MambaLayerSubmodules(
                    norm=Norm,
                    mixer=ModuleSpec(Mixer, submodules=projections),
                    mamba_bda=add,
                    sharded_state_dict_keys_map={"norm.": "mixer.in_proj.layer_norm_"},
                ),
            ),
            attention_layer=ModuleSpec(
                TransformerLayer,
                submodules=TransformerLayerSubmodules(
                    input_layernorm=Norm,
                    self_attention=ModuleSpec(
                        SelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
                    ),
                    self_attn_bda=add,
                    sharded_state_dict_keys_map=names,
                ),
            ),
            mlp_layer=ModuleSpec(
                TransformerLayer,
                submodules=TransformerLayerSubmodules(
                    pre_mlp_layernorm=Norm,
                    mlp=ModuleSpec(MLP, submodules=MLPSubmodules(**linears)),
                    mlp_bda=add,
                    sharded_state_dict_keys_map=names,
                ),
            ),
        ),
    )


def modelopt_with_mamba() -> None:
    """Import ModelOpt as where Mamba's kernels are installed, and tell it about the norms."""
    mm.ExtendedRMSNorm = GatedNorm
    fake = types.ModuleType("mamba_ssm")
    fake.__spec__ = importlib.machinery.ModuleSpec("mamba_ssm", None)
    sys.modules["mamba_ssm"] = fake
    import modelopt.torch.nas.plugins.megatron as plugin
    from modelopt.torch.nas.modules import _DynamicLayerNorm
    from modelopt.torch.nas.registry import DMRegistry
    from modelopt.torch.nas.traced_hp import TracedHp

    del sys.modules["mamba_ssm"]
    assert plugin.HAS_MAMBA

    class DynamicNorm(_DynamicLayerNorm):
        def _setup(self):
            self._register_hparam("num_features", TracedHp(list(range(1, self.weight.shape[-1] + 1))))
            self._register_dynamic_attribute("weight", self._cut_to_active_features)

    DMRegistry.register({Norm: "tests.Norm"})(DynamicNorm)
    DMRegistry.register({Mixer: "tests.Mixer"})(plugin._DynamicMambaMixer)


def all_gather(out, value, group=None, gather=torch.distributed.all_gather_into_tensor):
    """ModelOpt gathers numbers without a dimension; NCCL takes them, gloo does not."""
    return gather(out, value.reshape(-1), group=group)


def main(folder: Path) -> None:
    modelopt_with_mamba()
    import modelopt.torch.prune as mtp
    from nemo import lightning as nl
    from nemo.collections import llm
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
    from nemo.collections.llm.modelopt.prune.pruner import save_pruned_model

    from nemo_elastic.hosts.nemo.platform.strategy import strategy_class
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    torch.set_num_threads(1)
    write_words(folder / "words", TOKENS)
    tokens_bs = torch.randint(TOKENS, (2, 17), generator=torch.Generator().manual_seed(0))
    torch.distributed.all_gather_into_tensor = all_gather
    config = TinyNemotronH(
        hybrid_override_pattern=PATTERN, num_layers=len(PATTERN), hidden_size=64, ffn_hidden_size=96,
        mamba_num_heads=8, mamba_head_dim=16, mamba_num_groups=2, mamba_state_dim=8, num_attention_heads=8,
        num_query_groups=4, kv_channels=8, vocab_size=TOKENS, make_vocab_size_divisible_by=8,
        mamba_stack_spec=prunable_spec,
    )  # fmt: skip
    model = llm.MambaModel(config, tokenizer=AutoTokenizer(str(folder / "words")))
    strategy = strategy_class()(
        setup_optimizers=False, ckpt_load_optimizer=False, ckpt_parallel_save=False, replace_progress_bar=False
    )
    trainer = nl.Trainer(accelerator="cpu", devices=1, strategy=strategy, logger=False, max_steps=1)
    strategy.connect(model)
    model.trainer = trainer
    trainer.strategy.launcher.launch(lambda: None, trainer=trainer)
    strategy.setup_environment()
    strategy.trainer = trainer
    with cuda_as_cpu():
        model.configure_model()
        core = model.module
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in core.parameters():
                p += 0.2 * torch.randn(p.shape, generator=generator)
        strategy.setup_megatron_parallel(trainer=trainer)
        # what `prune_language_model` does, with a forward pass instead of a validation over a data module
        mtp.prune(
            model,
            mode=[("mcore_minitron", {"megatron.core.models.mamba.MambaModel": DIVISORS})],
            constraints={"export_config": WAY},
            dummy_input=None,
            config={"forward_loop": lambda _: core(tokens_bs, None, None)},
        )
        with torch.no_grad():
            logits_bsv = core.eval()(tokens_bs, None, None)
        save_pruned_model(trainer, str(folder / "checkpoint"))
    np.savez(folder / "logits.npz", tokens=tokens_bs.numpy(), logits=logits_bsv.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
