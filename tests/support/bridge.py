# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge imported on a CPU, which cannot have all that it imports: that is put in its place, empty.

    python -m tests.support.bridge SCRIPT [ARGUMENTS]      python -m tests.support.bridge -m MODULE [ARGUMENTS]

Two packages are imported by Bridge 0.6.2 whether or not they are used: TransformerEngine (megatron/bridge/peft/
lora_layers.py), of which PyPI has an empty shell only, and energon, a loader of images (megatron/bridge/data/builders/
energon.py). megatron-core is imported first, so that it finds no TransformerEngine and believes in none; the stand-ins
are taken away when Bridge is there; so it is in processes that a program starts. Only tests and demonstrations on a
CPU need this: NVIDIA's containers have both.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import runpy
import sys
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: a folder of PYTHONPATH with which a process that is started imports Bridge, too
SITE = ROOT / "tests" / "support" / "bridge_site"
BRIDGE = "megatron.bridge"

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
    stand_in_when_imported()
    importlib.import_module("megatron.bridge.training.pretrain")
    importlib.import_module("megatron.bridge.training.gpt_step")


def stand_in_when_imported() -> None:
    """Put the stand-ins in their place when Bridge is imported, whoever does that, and take them away behind it."""
    there = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not there and BRIDGE not in sys.modules and importlib.util.find_spec("transformer_engine") is None:
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Knows only Bridge's package, and asks the others for that."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != BRIDGE:
            return None
        for name in CORE:
            importlib.import_module(name)
        for name in (*ENGINE, *ENERGON):
            module = StandIn(name)
            module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], own, module)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads the package and what of it needs the stand-ins."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self.loader.exec_module(module)
        for name in ("pretrain", "gpt_step"):
            importlib.import_module(f"{BRIDGE}.training.{name}")
        for name in ENGINE:
            if isinstance(sys.modules.get(name), StandIn):
                del sys.modules[name]


def main(argv: list[str]) -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SITE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    import_bridge()
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
