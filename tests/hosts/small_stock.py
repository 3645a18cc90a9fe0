# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Imported before a host's recipe of the 12B: it is narrow from here on, and for one process without a GPU.

As the rehearsal of a large recipe makes it, whose declaration of what may change holds here, too. On Megatron-Bridge
the tokenizer is the recipe's own.

    python -m tests.hosts.small_stock FOLDER     writes the narrow parent
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

from tests.hosts.here import ON_NEMO
from tests.hosts.nemo.cutting import random_tensors
from tests.hosts.pages import LENGTH, PLACE, small


def on_nemo() -> None:
    import nemo_run as run
    from nemo.collections import llm
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    from nemo_elastic.hosts.nemo.curriculum.large import set_sizes
    from nemo_elastic.hosts.nemo.platform.strategy import without_cuda

    stock = llm.nemotron_nano_12b_v2.pretrain_recipe

    @functools.wraps(stock)
    def narrow(*args: Any, **kwargs: Any) -> run.Partial:
        recipe = stock(*args, **kwargs)
        set_sizes(recipe.model.config, small()[0])
        without_cuda(recipe)
        strategy, trainer = recipe.trainer.strategy, recipe.trainer
        strategy.tensor_model_parallel_size, strategy.sequence_parallel = 1, False
        trainer.devices, trainer.limit_val_batches = 1, 1
        recipe.model.tokenizer = run.Config(AutoTokenizer, pretrained_model_name=f"{os.environ[PLACE]}/data/tokenizer")
        recipe.data.tokenizer = recipe.model.tokenizer
        return recipe

    llm.nemotron_nano_12b_v2.pretrain_recipe = narrow
    run.cli.factory(target=llm.pretrain, name="nemotron_nano_12b_v2")(narrow)


def on_bridge() -> None:
    from megatron.bridge.recipes.nemotronh import nemotron_nano_v2

    from nemo_elastic.formats.megatron.shape import stock_sizes

    stock = nemotron_nano_v2.nemotron_nano_12b_v2_pretrain_config

    def narrow() -> Any:
        config, (parent, _) = stock(), small()
        for name, value in stock_sizes(parent, parent.full, experts=True).items():
            if name != "hybrid_layer_pattern" and getattr(config.model, name) != value:
                setattr(config.model, name, value)
        config.model.vocab_size = None  # nor has the recipe one
        config.model.tensor_model_parallel_size, config.model.sequence_parallel = 1, False
        config.dist.distributed_backend = "gloo"
        config.dataset.seq_length = LENGTH
        config.dataset.split = "8,1,1"  # its own leaves so little text none to validate on
        config.dataset.num_workers, config.dataset.persistent_workers = 0, False
        config.validation.eval_interval, config.validation.eval_iters = 2, 1
        return config

    nemotron_nano_v2.nemotron_nano_12b_v2_pretrain_config = narrow


def main(folder: Path) -> None:
    """Write the narrow parent, on NeMo as a training would leave it."""
    parent, _ = small()
    if ON_NEMO:
        from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint

        checkpoint = folder / "parent" / "checkpoints" / "step=1-last"
        write_nemo_checkpoint(checkpoint, parent, parent.full, random_tensors(parent), folder / "data" / "tokenizer")
    else:
        from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint

        write_megatron_checkpoint(folder / "parent", parent, parent.full, random_tensors(parent))


(on_nemo if ON_NEMO else on_bridge)()
if __name__ == "__main__":
    main(Path(sys.argv[1]))
