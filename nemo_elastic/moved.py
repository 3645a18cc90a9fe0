# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Modules under the names that they had before: `import` still finds them, for one version, with a DeprecationWarning.

Checkpoints name modules, too: NeMo's `io.json` says of which class a model was built.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # as in the package's `__init__`
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["MOVED", "find_moved_modules"]

_F, _S = "nemo_elastic.formats.", "nemo_elastic.slicing."
#: old name -> the modules that have its content now; none of a package that is gone
MOVED: dict[str, tuple[str, ...]] = {
    "nemo_elastic.export": (),
    "nemo_elastic.export.card": (_S + "card",),
    "nemo_elastic.export.checksums": (_F + "checksums",),
    "nemo_elastic.export.family_folder": (_S + "family_folder",),
    "nemo_elastic.export.hf": (_F + "source", _F + "registry", _F + "hf.folder"),
    "nemo_elastic.export.hf_config": (_F + "hf.config",),
    "nemo_elastic.export.pieces": (_F + "pieces",),
    "nemo_elastic.export.runs_in": (_S + "runs_in",),
    "nemo_elastic.export.safetensors_io": (_F + "raw", _F + "hf.safetensors_io"),
    "nemo_elastic.export.shards": (_F + "hf.shards",),
    "nemo_elastic.export.slicer": (_S + "slicer",),
    "nemo_elastic.export.torch_io": (_F + "torch_io",),
    "nemo_elastic.export.verify": (_S + "verify",),
    "nemo_elastic.export.write": (_F + "hf.write",),
    "nemo_elastic.nemo.context": (_F + "megatron.context",),
    "nemo_elastic.nemo.inferred": (_F + "megatron.infer",),
    "nemo_elastic.nemo.rename": (_F + "adapter",),
    "nemo_elastic.nemo.shape": (_F + "megatron.shape",),
    "nemo_elastic.nemo.source": (_F + "megatron.folder",),
    "nemo_elastic.nemo.stored": (_F + "megatron.stored",),
}


class _Finder:
    """Asked by `import` for what nobody else has found."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in MOVED:
            return None
        return ModuleSpec(name, self, is_package=not MOVED[name])  # pyright: ignore[reportArgumentType]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        import warnings

        homes = MOVED[module.__name__]
        now = f"; it is {' and '.join(homes)} now" if homes else ""
        text = f"{module.__name__} is an old name, which the next version does not know{now}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)

        def find(name: str) -> Any:
            for home in homes:
                found = import_module(home)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        vars(module)["__getattr__"] = find


def find_moved_modules() -> None:
    """Have `import` ask here last."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())  # pyright: ignore[reportArgumentType]
