# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Imported before Megatron-Bridge's recipe of the 12B: it is narrow from here on, and for one process without a GPU.

As the rehearsal of a large recipe makes it, whose declaration of what may change holds here, too. The tokenizer is the
recipe's own.

    python -m tests.hosts.small_stock FOLDER     writes the narrow parent
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tests.hosts.here  # noqa: F401  (which imports Megatron-Bridge)
from tests.hosts.nemo.cutting import random_tensors
from tests.hosts.pages import LENGTH, small


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
    """Write the narrow parent."""
    from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint

    parent, _ = small()
    write_megatron_checkpoint(folder / "parent", parent, parent.full, random_tensors(parent))


on_bridge()
if __name__ == "__main__":
    main(Path(sys.argv[1]))
