# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Loads a checkpoint with stock NeMo in a process that cannot import nemo_elastic, and says what it found.

    python stock_worker.py CHECKPOINT TOKENS.npy OUT.npz

OUT holds `facts` (JSON) and `logits` of the tokens [b, s], from megatron-core's MambaModel built from the checkpoint's
own context with the layers of `stock_spec.py`, its weights loaded twice: by megatron-core strictly, and by NeMo.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from unittest import mock


class Absent:
    """First of the finders: as if the package were not installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "nemo_elastic":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(checkpoint: str, tokens_file: str, out: str) -> None:
    sys.meta_path.insert(0, Absent)
    try:
        importlib.import_module("nemo_elastic")
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("nemo_elastic can be imported")

    import numpy as np
    import torch
    from megatron.core.dist_checkpointing import load
    from megatron.core.dist_checkpointing.validation import StrictHandling
    from megatron.core.tensor_parallel.random import initialize_rng_tracker
    from nemo.collections.llm.gpt.model import ssm
    from nemo.lightning import io
    from nemo.lightning.io import pl
    from nemo.lightning.io.connector import ModelConnector
    from stock_spec import stock_spec

    tokens = torch.from_numpy(np.load(tokens_file))
    stock = io.load_context(checkpoint, subpath="model")
    whole = io.load_context(checkpoint)  # trainer and strategy too, as resuming does
    facts = {
        "model": f"{type(stock).__module__}.{type(stock).__qualname__}",
        "config": f"{type(stock.config).__module__}.{type(stock.config).__qualname__}",
        "default_spec": stock.config.mamba_stack_spec is ssm.default_mamba_stack_spec,
        "strategy": type(whole.trainer.strategy).__qualname__,
        "tokens": stock.tokenizer.vocab_size,
        "dtype": str(stock.config.params_dtype),
        "sizes": {name: getattr(stock.config, name) for name in SIZES},
    }

    # The default spec needs TransformerEngine. NeMo looks it up by this name, so the context itself builds with ours.
    initialize_rng_tracker(inference_rng_tracker=True)  # the one that does not need CUDA
    with (
        mock.patch.object(ssm, "default_mamba_stack_spec", stock_spec),
        mock.patch.object(torch.cuda, "current_device", lambda: "cpu"),
        mock.patch.object(pl, "_fix_tensors_device", lambda loaded: loaded),  # moves what was loaded to the GPU
        mock.patch.object(torch.cuda, "Stream", object),
        mock.patch.object(torch.cuda, "stream", lambda _: contextlib.nullcontext()),
        mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor),
    ):
        model, _ = ModelConnector(checkpoint).nemo_load(checkpoint)
        core = model.module
        while hasattr(core, "module"):
            core = core.module
        with torch.no_grad():
            by_nemo = core.eval()(tokens, None, None)

        wanted = core.sharded_state_dict(prefix="module.")
        for parameter in core.parameters():
            parameter.data.fill_(float("nan"))  # what the second load leaves out shows
        loaded, missing, unexpected = load(dict(wanted), f"{checkpoint}/weights", strict=StrictHandling.RETURN_ALL)
        core.load_state_dict({k.removeprefix("module."): v for k, v in loaded.items() if k in wanted}, strict=True)
        with torch.no_grad():
            by_megatron = core(tokens, None, None)
    facts["only_in_file"] = sorted(k for k in missing if k.startswith("module."))
    facts["only_in_model"] = sorted(unexpected)
    facts["rows"] = core.vocab_size
    np.savez(out, facts=json.dumps(facts), by_nemo=by_nemo.numpy(), by_megatron=by_megatron.numpy())


SIZES = (
    "hybrid_override_pattern", "num_layers", "hidden_size", "ffn_hidden_size", "mamba_num_heads", "mamba_head_dim",
    "mamba_num_groups", "mamba_state_dim", "num_attention_heads", "num_query_groups", "kv_channels", "vocab_size",
    "make_vocab_size_divisible_by", "layernorm_epsilon", "share_embeddings_and_output_weights", "seq_length",
)  # fmt: skip

if __name__ == "__main__":
    main(*sys.argv[1:])
