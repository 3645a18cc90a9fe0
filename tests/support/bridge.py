# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge imported on a CPU, which cannot have all that it imports: that is put in its place, empty.

    python -m tests.support.bridge SCRIPT [ARGUMENTS]      python -m tests.support.bridge -m MODULE [ARGUMENTS]

Two packages are imported by Bridge 0.6.2 whether or not they are used: TransformerEngine (megatron/bridge/peft/
lora_layers.py), of which PyPI has an empty shell only, and energon, a loader of images (megatron/bridge/data/builders/
energon.py). megatron-core is imported first, so that it finds no TransformerEngine and believes in none; the stand-ins
are taken away when Bridge is there. Only tests and demonstrations on a CPU need this: NVIDIA's containers have both.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import runpy
import sys
import types
from typing import Any

#: what of megatron-core looks for TransformerEngine
CORE = (
    "megatron.core.extensions.transformer_engine",
    "megatron.core.models.hybrid.hybrid_layer_specs",
    "megatron.core.models.gpt",
    "megatron.core.distributed",
    "megatron.core.optimizer",
    "megatron.core.fp4_utils",
    "megatron.core.post_training.modelopt.layers",
)
ENGINE = ("transformer_engine", "transformer_engine.pytorch", "transformer_engine.pytorch.ops")
ENERGON = tuple(
    "megatron.energon" + rest
    for rest in (
        "", ".epathlib", ".epathlib.epath", ".flavors", ".flavors.base_dataset", ".flavors.webdataset",
        ".task_encoder", ".task_encoder.base", ".task_encoder.cooking",
    )
)  # fmt: skip


class StandIn(types.ModuleType):
    """A module that has every class that is asked of it: to be a base, to be compared with, or to decorate."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        import torch

        def new(cls: type, *args: Any, **_: Any) -> Any:
            return args[0] if len(args) == 1 and callable(args[0]) else torch.nn.Module.__new__(cls)

        init = lambda self, *_, **__: torch.nn.Module.__init__(self)  # noqa: E731
        return type(name, (torch.nn.Module,), {"__new__": new, "__init__": init, "forward": lambda self, given: given})


def import_bridge() -> None:
    """Import Megatron-Bridge's training; without stand-ins where there is a GPU's environment."""
    if importlib.util.find_spec("transformer_engine") is None:
        for name in CORE:
            importlib.import_module(name)
        importlib.import_module("megatron")
        for name in (*ENGINE, *ENERGON):
            module = StandIn(name)
            module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], own, module)
    importlib.import_module("megatron.bridge.training.pretrain")
    importlib.import_module("megatron.bridge.training.gpt_step")
    for name in ENGINE:
        if isinstance(sys.modules.get(name), StandIn):
            del sys.modules[name]


def main(argv: list[str]) -> None:
    import_bridge()
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
