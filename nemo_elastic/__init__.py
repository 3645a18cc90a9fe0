# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Nested elastic training for NVIDIA NeMo: one parent, a family of models inside it.

The public names are loaded on first use: `import nemo_elastic` itself brings neither torch nor NeMo, so that the
command line and the tools of a deployer start at once.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as `typing` says; to import that takes as long as the rest, and Ctrl-C is not handled yet
if TYPE_CHECKING:
    from typing import Any

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.core.family import Parent, Subnet
    from nemo_elastic.core.manifest import Family

    from .hosts.nemo.curriculum.jobs import run_family
    from .hosts.nemo.curriculum.large import FamilyRecipe
    from .hosts.nemo.recipe.apply import ElasticPlugin, apply_elastic
    from .plan.stages import PAPER, Curriculum, Stage
    from .runtime import load_family
    from .slicing.slicer import slice_checkpoint

__version__ = "0.1.0"

__all__ = [
    "PAPER",
    "Curriculum",
    "ElasticConfig",
    "ElasticPlugin",
    "Family",
    "FamilyRecipe",
    "Parent",
    "Stage",
    "Subnet",
    "__version__",
    "apply_elastic",
    "load_family",
    "run_family",
    "slice_checkpoint",
]

#: public name -> module that defines it
_HOME = {
    "PAPER": ".plan.stages",
    "Curriculum": ".plan.stages",
    "ElasticConfig": ".config.block",
    "ElasticPlugin": ".hosts.nemo.recipe.apply",
    "Family": ".core.manifest",
    "FamilyRecipe": ".hosts.nemo.curriculum.large",
    "Parent": ".core.family",
    "Stage": ".plan.stages",
    "Subnet": ".core.family",
    "apply_elastic": ".hosts.nemo.recipe.apply",
    "load_family": ".runtime",
    "run_family": ".hosts.nemo.curriculum.jobs",
    "slice_checkpoint": ".slicing.slicer",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(home, __name__), name)
    except ModuleNotFoundError as error:
        from .extras import missing

        message = missing(error)
        if message is None:
            raise
        raise ImportError(f"{__name__}.{name}: {message}") from None
    globals()[name] = value  # the next access does not come through here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
