# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Imported beside NeMo's recipes: that of the 12B is narrow from here on, and for one process without a GPU.

As the rehearsal of a large recipe makes it, whose declaration of what may change holds here, too.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import nemo_run as run
from nemo.collections import llm
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

from nemo_elastic.hosts.nemo.curriculum.large import set_sizes
from nemo_elastic.hosts.nemo.platform.strategy import without_cuda
from tests.hosts.nemo.cutting import random_tensors
from tests.hosts.pages import PLACE, small

stock = llm.nemotron_nano_12b_v2.pretrain_recipe


@functools.wraps(stock)
def narrow(*args: Any, **kwargs: Any) -> run.Partial:
    """NeMo's recipe, changed where a rehearsal changes it."""
    recipe = stock(*args, **kwargs)
    set_sizes(recipe.model.config, small()[0])
    without_cuda(recipe)
    strategy, trainer = recipe.trainer.strategy, recipe.trainer
    strategy.tensor_model_parallel_size, strategy.sequence_parallel = 1, False
    trainer.devices, trainer.limit_val_batches = 1, 1
    recipe.model.tokenizer = run.Config(AutoTokenizer, pretrained_model_name=f"{os.environ[PLACE]}/data/tokenizer")
    recipe.data.tokenizer = recipe.model.tokenizer
    return recipe


def main(folder: Path) -> None:
    """Write the narrow parent as a training would leave it."""
    from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint

    parent, _ = small()
    checkpoint = folder / "parent" / "checkpoints" / "step=1-last"
    write_nemo_checkpoint(checkpoint, parent, parent.full, random_tensors(parent), folder / "data" / "tokenizer")


llm.nemotron_nano_12b_v2.pretrain_recipe = narrow
run.cli.factory(target=llm.pretrain, name="nemotron_nano_12b_v2")(narrow)
if __name__ == "__main__":
    main(Path(sys.argv[1]))
