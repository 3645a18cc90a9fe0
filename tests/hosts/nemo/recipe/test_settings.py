# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing in a recipe changes without a line: recipes before and after, field by field, against what is printed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
from tests.hosts.nemo.blocks import NANO_12B as BLOCK
from tests.hosts.nemo.blocks import with_text

pytestmark = pytest.mark.nemo
Path = tuple[Any, ...]
ABSENT = "absent"


@dataclass
class Fields:
    """Every field of a recipe, as fiddle walks it.

    Attributes:
        written: path -> the value that is written down; of a config its class.
        defaults: path -> what a constructor takes where nothing is written down, if that is a plain value.
    """

    written: dict[Path, Any] = field(default_factory=dict)
    defaults: dict[Path, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Any) -> Fields:
        import fiddle
        from fiddle import daglish

        fields = cls()
        for value, path in daglish.iterate(recipe, memoized=False):
            steps = tuple(step(recipe, path[: i + 1]) for i in range(len(path)))
            if isinstance(value, fiddle.Buildable):
                made = fields.written[steps] = value.__fn_or_cls__
                parameters = {} if made is timedelta else inspect.signature(made).parameters  # built in, has none
                for name, parameter in parameters.items():
                    if isinstance(parameter.default, (bool, int, float, str, type(None))):
                        fields.defaults[(*steps, name)] = parameter.default
            elif not isinstance(value, (list, tuple, dict)):
                fields.written[steps] = value
        return fields

    def __getitem__(self, path: Path) -> Any:
        return self.written.get(path, self.defaults.get(path, ABSENT))


def step(recipe: Any, path: Path) -> str:
    """The last part of a path: a place in a list by the class that stands there, for classes before it may go."""
    from fiddle import daglish

    last = path[-1]
    if isinstance(last, daglish.Attr):
        return last.name
    if isinstance(last, daglish.Key):
        return str(last.key)
    made = getattr(daglish.follow_path(recipe, path), "__fn_or_cls__", None)
    return f"[{getattr(made, '__name__', last.index)}]"


def unprinted(before: Fields, after: Fields, printed: str) -> list[str]:
    """Fields that differ and that no line names. A line about a config that is gone speaks for what was in it."""
    lines = re.findall(r"^  ([\w.\[\]]+): .* -> .*$", printed, re.MULTILINE)
    report = {re.sub(r"\[\w+\]", "", name) for name in lines}
    out = []
    for path in before.written.keys() | after.written.keys():
        if before[path] == after[path] or path[:2] == ("model", "elastic"):  # that is one line, checked by its reader
            continue
        names = [".".join(p for p in path[:i] if p[0] != "[") or "recipe" for i in range(len(path) + 1)]
        gone = after[path] is ABSENT and any(
            callable(before[path[:i]]) and not callable(after[path[:i]]) and names[i] in report
            for i in range(len(path))
        )
        if not gone and names[-1] not in report:
            out.append(f"{names[-1]}: {before[path]} -> {after[path]}")
    return out


def elastic(**settings: Any) -> Callable[[Any], Any]:
    def make(recipe: Any) -> Any:
        from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

        return apply_elastic(recipe, BLOCK | settings.pop("block", {}), teacher="parent", **settings)

    return make


def ranking(recipe: Any) -> Any:
    from nemo_elastic.hosts.nemo.curriculum.rank import rank_only

    return rank_only(
        recipe, ElasticConfig.from_dict(BLOCK), parent="parent", out="/runs/out", checkpoint="/runs/ranked"
    )


def stage(number: int) -> Callable[[Any], Any]:
    def make(recipe: Any) -> Any:
        from nemo_elastic.hosts.nemo.curriculum.jobs import stage_recipe

        own = CurriculumRun("parent", ["/data/text"], "/runs/family", ElasticConfig.from_dict(BLOCK))
        return stage_recipe(recipe, own, f"stage{number}")

    return make


def plain(recipe: Any) -> None:
    """As NeMo has it."""


def laden(recipe: Any) -> None:
    """With all that `apply_elastic` knows to change."""
    import nemo_run as run
    from nemo import lightning as nl
    from nemo.lightning.pytorch.callbacks.megatron_comm_overlap import MegatronCommOverlapCallback

    recipe.trainer.callbacks.insert(1, run.Config(MegatronCommOverlapCallback, tp_comm_overlap=True))
    recipe.trainer.strategy.ddp = "megatron"
    recipe.optim.config.overlap_param_gather = True
    recipe.optim.lr_scheduler.constant_steps = 500
    recipe.optim.no_weight_decay_cond = len
    config = recipe.model.config
    config.recompute_granularity, config.tp_comm_overlap, config.fp8 = "selective", True, "hybrid"
    recipe.resume.restore_config = run.Config(nl.RestoreConfig, path="/checkpoints/12b")


@pytest.mark.parametrize("start", [plain, laden])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(elastic(), id="stage 1"),
        pytest.param(elastic(block={"shapes": "router"}), id="router"),
        pytest.param(elastic(stage=2, previous="/runs/one", done_steps=100), id="stage 2"),
        pytest.param(ranking, id="ranking"),
        pytest.param(stage(1), id="curriculum 1"),
        pytest.param(stage(2), id="curriculum 2"),
    ],
)
def test_no_field_changes_without_a_line(
    start: Callable[[Any], None], make: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from nemo.collections import llm

    recipe = with_text(llm.nemotron_nano_12b_v2.pretrain_recipe(num_nodes=1, num_gpus_per_node=8))
    recipe.log.explicit_log_dir = "/runs/job"
    start(recipe)
    before = Fields.of(recipe)
    capsys.readouterr()
    after = Fields.of(make(recipe))
    printed = capsys.readouterr().out
    assert unprinted(before, after, printed) == []
    assert len(printed.splitlines()) > 15
    # and no line without a change: that would be noise, in which changes are not seen
    assert re.findall(r"^  (.*): (.*) -> \2$", printed, re.MULTILINE) == []


def test_a_change_that_nobody_noted_is_found() -> None:
    """The comparison above is no rubber stamp."""
    from nemo.collections import llm

    recipe = llm.nemotron_nano_12b_v2.pretrain_recipe(num_nodes=1, num_gpus_per_node=8)
    before = Fields.of(recipe)
    recipe.trainer.strategy.sequence_parallel = not recipe.trainer.strategy.sequence_parallel
    del recipe.optim.lr_scheduler.min_lr
    recipe.trainer.accumulate_grad_batches = 3
    actual = unprinted(before, Fields.of(recipe), "apply_elastic changes the recipe:\n  model: A -> B\n")
    assert {line.partition(":")[0] for line in actual} == {
        "trainer.strategy.sequence_parallel", "optim.lr_scheduler.min_lr", "trainer.accumulate_grad_batches"
    }  # fmt: skip
