# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A module of the engine, imported beside as much of vLLM as it names: empty classes, but for what a test gives."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

ENGINE = "nemo_elastic.serving.engine"


class _Module(ModuleType):
    """A module that has every class that it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (), {}))
        return getattr(self, name)


class _Finder:
    """Finds every module of vLLM's."""

    def __init__(self, has: Mapping[str, Mapping[str, Any]]) -> None:
        self._has = has

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "vllm" else None  # pyright: ignore

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self._has.get(module.__name__, {}))


@contextmanager
def beside_vllm(module: str, has: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Any]:
    """The module; `has` are vLLM's modules and what is in them."""
    own = {"vllm.logger": {"init_logger": logging.getLogger}, **(has or {})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "meta_path", [_Finder(own), *sys.meta_path])
        yield importlib.import_module(f"{ENGINE}.{module}")
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm" or name.startswith(f"{ENGINE}.")]:
        sys.modules.pop(name)
