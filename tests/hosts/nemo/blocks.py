# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Elastic blocks, data and command lines that several tests give to recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: for Nemotron Nano V2 12B
NANO_12B: dict[str, Any] = {
    "budgets": [{"name": "12b"}, {"name": "9b", "params": 8.9e9}, {"name": "6b", "params": 6.0e9}],
    "axes": {
        "hidden": [5120, 4480, 3840, 3584],
        "ffn": {"choices": [20480, 15360, 12288, 10240], "per_layer": True, "stripes": 8},
        "mamba_heads": {"choices": [128, 112, 96, 80]},
        "depth": [62, 58, 54],
    },
}


def with_text(recipe: Any) -> Any:
    """A stock recipe that reads text, on a cluster, where it has random tokens; all else is as it was."""
    import nemo_run as run
    from nemo.collections import llm

    recipe.data = run.Config(llm.PreTrainingDataModule, paths=["/data/text"], **recipe.data.__arguments__)
    return recipe


def command_line(args: Sequence[str], factory: str | None = None, file: Path | None = None, **options: Any) -> Any:
    """The context that NeMo-Run makes of options, and the task that it runs."""
    from nemo_elastic.hosts.nemo.cli.entry import ElasticContext, train

    context = ElasticContext(name="train", factory=factory, yaml=str(file) if file else None, **options)
    if options:
        return context.cli_execute(train, list(args))
    return context.parse_fn(train, list(args))
