# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""ElasticPlugin: `apply_elastic` as a NeMo-Run plugin, for a recipe that should itself stay untouched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nemo_run as run

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import bad
from nemo_elastic.hosts.common.stage import STAGE_OPTIONS, StageOptions

from .apply import apply_elastic


@dataclass
class ElasticPlugin(StageOptions, run.Plugin):
    """Makes the recipe of a task elastic when the task is added to an experiment.

    NeMo-Run works on a copy, so that one recipe can be run as it is and elastic. It calls plugins only where there is
    an executor: `run.run(recipe, plugins=[…])` without one, or with `direct=True`, ignores every plugin.

    Example:
        >>> run.run(recipe, run.LocalExecutor(), plugins=[ElasticPlugin("elastic.yaml", teacher="/checkpoints/12b")])

    Attributes:
        elastic: the elastic block, or a YAML file with one.
        verbose: print what is changed, as in `apply_elastic`.
    """

    elastic: ElasticConfig | Mapping[str, Any] | str | Path
    verbose: bool = True

    def setup(self, task: Any, executor: Any) -> None:
        """Change the task's recipe in place; NeMo-Run calls this.

        Raises:
            ElasticError: the task is a script, or `apply_elastic` refuses it.
        """
        if not isinstance(task, run.Partial):
            raise bad("task", type(task).__name__, "a run.Partial of a recipe; a script has no settings to change")
        apply_elastic(
            task, self.elastic, verbose=self.verbose, **{name: getattr(self, name) for name in STAGE_OPTIONS}
        )
