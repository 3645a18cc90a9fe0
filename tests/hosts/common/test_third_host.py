# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A host that nobody has heard of gets the rules, a job's settings and its description from a table of paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.hosts.common import rules
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun, Job, described
from nemo_elastic.hosts.common.planned import PlannedFamily, Precision
from nemo_elastic.hosts.common.recipe import Recipe, TokenFiles
from nemo_elastic.hosts.common.stage import StageOptions
from nemo_elastic.hosts.common.tiny import TINY
from nemo_elastic.plan import preset
from tests.workers import ROOT

pytestmark = pytest.mark.nemo
BLOCK = ROOT / "conf" / "elastic_tiny.yaml"


class ToyRecipe(Recipe):
    """Namespaces, three deep."""

    text, ranking = "text", "start from a ranking"
    paths: ClassVar = {
        "shape": "net", "pattern": "net.hybrid_override_pattern", "device": "on", "trains": "learns",
        "tensor": "ranks.t", "pipeline": "ranks.p", "context": "ranks.c", "sequence_parallel": "ranks.sp",
        "recompute": "net.again", "steps": "loop.steps", "batch": "loop.batch", "micro batch": "loop.micro",
        "length": "text.length", "lr": "adam.rate", "min_lr": "adam.least", "warmup": "adam.warm", "save": "out",
    }  # fmt: skip
    refused: ClassVar = {"ranks.zero": ((False,), "false: it cuts weights")}

    def check_kind(self) -> None:
        pass

    def check_data(self, block: ElasticConfig, stage: int) -> None:
        pass

    @property
    def answers(self) -> bool:
        return False

    def random_data(self) -> str | None:
        return None

    def data(self) -> Mapping[str, Sequence[str]]:
        return {}

    def token_files(self) -> TokenFiles:
        return "text.files", (), None

    def vocabularies(self) -> Mapping[str, int | None]:
        return {}

    def vocabulary(self) -> int | None:
        return 1024

    def other_schedule(self, total_steps: int) -> tuple[str, str] | None:
        return None


def toy() -> Any:
    """Its recipe of the tiny parent."""
    parent, space = preset("nemotron-h-tiny"), SimpleNamespace
    return space(
        net=space(**stock_sizes(parent, parent.full), again=None), ranks=space(t=1, p=1, c=1, sp=False, zero=False),
        loop=space(steps=1, batch=1, micro=1), text=space(length=1), adam=space(rate=1.0, least=None, warm=0),
        on="cpu", learns=True, out=None,
    )  # fmt: skip


@dataclass(frozen=True)
class ToyFamily(PlannedFamily):
    host, validation_batches = "toy", 1

    @property
    def precision(self) -> Precision:
        return Precision("fp32", "fp32")

    def build(self, job: str, run: CurriculumRun) -> Any:
        recipe = ToyRecipe(self.stock())
        self.put(recipe, job, run, self.layout_of(job, run))
        rules.check(recipe, run.block_of(job), run.options(job, "/before"))
        return recipe

    def described(self, run: CurriculumRun) -> dict[str, Job]:
        return {job: described(self.build(job, run), job, print, run.machines(job)) for job in run.jobs[:-1]}


def test_a_job_is_put_into_its_recipe_and_described() -> None:
    family = ToyFamily("toy", toy, "nemotron-h-tiny", BLOCK)
    first = family.layout(1, TINY, 2, "h100", 2)
    shared = replace(first, tensor=2, pipeline=1, context=1, data=1, sequence_parallel=True, recompute=False)
    layouts = (shared, replace(shared, recompute=True))
    own = family.run_of(
        "/parent", ["/data"], "/run", num_nodes=1, num_gpus_per_node=2, curriculum=TINY, layouts=layouts
    )
    jobs = family.described(own)
    assert [(job.layout, job.devices, job.steps, job.stop) for job in jobs.values()] == [
        ("TP1 PP1 DP2", 2, 60, print), ("TP2 PP1 DP1 SP", 2, 60, print), ("TP2 PP1 DP1 SP recompute", 2, 30, print),
    ]  # fmt: skip
    made = family.build("stage2", own).made
    assert (made.loop.steps, made.loop.batch, made.loop.micro, made.text.length) == (30, 4, 4, 512)
    assert (made.adam.rate, made.adam.warm) == (3e-3, 5) and made.adam.least == pytest.approx(3e-4)
    assert family.build("rank", own).made.loop.batch == 32, "every rank looks at samples of its own"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("ranks.t", 3, "a size that divides the 8 stripes of elastic.axes.ffn"),
        ("ranks.t", 16, "set stripes to a multiple of 16"),
        ("ranks.p", 5, "a size that divides the 12 layers"),
        ("ranks.zero", True, "false: it cuts weights"),
        ("adam.rate", 0, "above 0"),
        ("adam.least", 2.0, "at most recipe.adam.rate"),
        ("loop.steps", 0, "at least 1"),
        ("text.length", 33, "a multiple of the tensor-parallel size (2)"),
        ("net.hybrid_override_pattern", None, "a pattern"),
    ],
)
def test_rules_name_the_fields_of_the_table(field: str, value: Any, why: str) -> None:
    """What no host can have, and so no host's own tests repeat."""
    recipe, block = ToyRecipe(toy()), ElasticConfig.load(BLOCK)
    if field == "text.length":
        recipe.made.ranks.t, recipe.made.ranks.sp = 2, True
    owner, _, name = field.partition(".")
    setattr(getattr(recipe.made, owner), name, value)
    with pytest.raises(ElasticError) as caught:
        rules.check(recipe, block, StageOptions(teacher="/parent"))
    assert str(caught.value).startswith(f"recipe.{field}: {value} ") and why in str(caught.value)
