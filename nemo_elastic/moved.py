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

_F, _S, _T = "nemo_elastic.formats.", "nemo_elastic.slicing.", "nemo_elastic.train."
_N, _M = "nemo_elastic.hosts.nemo.", "nemo_elastic.megatron."
_C, _IO, _J = "nemo_elastic.core.", "nemo_elastic.io.", "nemo_elastic.hosts.common."
#: old name -> the modules that have its content now; none of a package that is gone
MOVED: dict[str, tuple[str, ...]] = {
    "nemo_elastic.bounded": (_IO + "bounded",),
    "nemo_elastic.budget": (_C + "budget",),
    "nemo_elastic.checks": (_IO + "values",),
    "nemo_elastic.cost": (_C + "cost",),
    "nemo_elastic.data.megatron": (_N + "folder_data",),
    "nemo_elastic.export": (),
    "nemo_elastic.export.card": (_S + "card",),
    "nemo_elastic.export.checksums": (_F + "checksums",),
    "nemo_elastic.export.family_folder": (_S + "family_folder", _S + "untrained"),
    "nemo_elastic.export.hf": (_F + "source", _F + "folders", _F + "hf.reading"),
    "nemo_elastic.export.hf_config": (_F + "hf.config",),
    "nemo_elastic.export.pieces": (_F + "kept",),
    "nemo_elastic.export.runs_in": (_S + "card",),
    "nemo_elastic.export.safetensors_io": (_F + "raw", _F + "hf.reading"),
    "nemo_elastic.export.shards": (_F + "hf.shards",),
    "nemo_elastic.export.slicer": (_S + "slicer",),
    "nemo_elastic.export.torch_io": (_F + "raw",),
    "nemo_elastic.export.verify": (_S + "verification",),
    "nemo_elastic.export.write": (_F + "hf.writing",),
    "nemo_elastic.family": (_C + "family",),
    "nemo_elastic.files": (_IO + "atomic", _IO + "read", _IO + "bounded", _IO + "outputs"),
    "nemo_elastic.formats.registry": (_F + "folders",),
    # checkpoints of today's last version name the classes
    "nemo_elastic.hosts.nemo.checkpoint.ending": (_N + "checkpoint.resume",),
    "nemo_elastic.hosts.nemo.tiny.model": (_N + "tiny.recipe",),
    "nemo_elastic.inside": (_IO + "bounded",),
    "nemo_elastic.layout": (_C + "layout",),
    "nemo_elastic.manifest": (_C + "manifest",),
    "nemo_elastic.nemo": (),
    "nemo_elastic.nemo.apply": (_N + "recipe.apply",),
    "nemo_elastic.nemo.best": (_J + "checkpoints",),
    "nemo_elastic.nemo.callbacks": (_N + "callbacks",),
    "nemo_elastic.nemo.checkpoint": (_M + "models", _F + "megatron.stored"),
    "nemo_elastic.nemo.checks": (_N + "recipe.checks",),
    "nemo_elastic.nemo.cli_entry": (_N + "cli.entry",),
    "nemo_elastic.nemo.cluster": (_N + "curriculum.large",),
    "nemo_elastic.nemo.context": (_F + "megatron.context_files",),
    "nemo_elastic.nemo.curriculum": (_N + "curriculum.jobs",),
    "nemo_elastic.nemo.data": (_N + "host", _M + "gpt_tokens"),
    "nemo_elastic.nemo.ending": (_N + "checkpoint.resume",),
    "nemo_elastic.nemo.executors": (_J + "experiment",),
    "nemo_elastic.nemo.family": (_N + "checkpoint.write", _F + "megatron.stored"),
    "nemo_elastic.nemo.in_turn": (_T + "training",),
    "nemo_elastic.nemo.inferred": (_F + "megatron.infer",),
    "nemo_elastic.nemo.local_jobs": (_J + "local_jobs",),
    "nemo_elastic.nemo.loss": (_N + "model", _M + "vocabulary", _M + "reports"),
    "nemo_elastic.nemo.members": (_M + "models", _T + "members"),
    "nemo_elastic.nemo.model": (_N + "model",),
    "nemo_elastic.nemo.nonfinite": (_T + "guard",),
    "nemo_elastic.nemo.optim": (_N + "optim", _M + "router_optim"),
    "nemo_elastic.nemo.platform": (),
    "nemo_elastic.nemo.platform.adam": (_M + "cpu",),
    "nemo_elastic.nemo.platform.device": (_M + "cpu",),
    "nemo_elastic.nemo.platform.strategy": (_N + "platform.strategy",),
    "nemo_elastic.nemo.plugin": (_N + "recipe.apply",),
    "nemo_elastic.nemo.preview": (_J + "preview",),
    "nemo_elastic.nemo.rank_run": (_N + "curriculum.rank",),
    "nemo_elastic.nemo.rename": (_F + "adapter",),
    "nemo_elastic.nemo.resume": (_N + "checkpoint.resume",),
    "nemo_elastic.nemo.run_file": (_J + "run_file", _N + "cli.whole_recipe"),
    "nemo_elastic.nemo.sampling": (_T + "samples",),
    "nemo_elastic.nemo.saved": (_N + "checkpoint.saved", _J + "checkpoints", _J + "sums"),
    "nemo_elastic.nemo.settings": (_N + "recipe.settings",),
    "nemo_elastic.nemo.shape": (_F + "megatron.shape",),
    "nemo_elastic.nemo.shaping": (_T + "shaping",),
    "nemo_elastic.nemo.source": (_F + "megatron.stored",),
    "nemo_elastic.nemo.stored": (_F + "megatron.stored", _F + "megatron.metadata"),
    "nemo_elastic.nemo.streams": (_N + "streams", _M + "two_streams", _M + "megatron_host"),
    "nemo_elastic.nemo.teacher": (_M + "models",),
    "nemo_elastic.nemo.tiny": (_N + "tiny.recipe",),
    "nemo_elastic.nemo.tiny_recipe": (_N + "tiny.recipe",),
    "nemo_elastic.nemo.validation": (_N + "validation", _M + "reports", _T + "heldout"),
    "nemo_elastic.nemo.write": (_N + "checkpoint.write",),
    "nemo_elastic.nn.model": ("nemo_elastic.nn.nemotron_h",),
    "nemo_elastic.outputs": (_IO + "outputs",),
    "nemo_elastic.path": (_C + "sizes",),
    "nemo_elastic.prefix": (_C + "prefix",),
    "nemo_elastic.renames": (_IO + "temporary",),
    "nemo_elastic.runtime.family_tokenizer": (_F + "family_tokenizer",),
    "nemo_elastic.schema": ("nemo_elastic.config.schema",),
    "nemo_elastic.shapes": ("nemo_elastic.search",),
    "nemo_elastic.shapes.even": ("nemo_elastic.search.even",),
    "nemo_elastic.shapes.explorer": ("nemo_elastic.search.explorer",),
    "nemo_elastic.shapes.finder": ("nemo_elastic.search.finder",),
    "nemo_elastic.shapes.price": ("nemo_elastic.search.space",),
    "nemo_elastic.shapes.projection": ("nemo_elastic.search.projection",),
    "nemo_elastic.shapes.space": ("nemo_elastic.search.space",),
    "nemo_elastic.shapes.surrogate": ("nemo_elastic.search.surrogate",),
    "nemo_elastic.train.host": (_T + "seam",),
}


class _Finder:
    """Asked by `import` for what nobody else has found."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in MOVED:
            return None
        is_package = any(other.startswith(f"{name}.") for other in MOVED)
        return ModuleSpec(name, self, is_package=is_package)  # pyright: ignore[reportArgumentType]

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
                current = import_module(home)
                if hasattr(current, name):
                    return getattr(current, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        vars(module)["__getattr__"] = find


def find_moved_modules() -> None:
    """Have `import` ask here last."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())  # pyright: ignore[reportArgumentType]
