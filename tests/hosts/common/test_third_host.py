# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A host that nobody has heard of gets the rules from a table of paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.hosts.common import rules
from nemo_elastic.hosts.common.recipe import Recipe, TokenFiles
from nemo_elastic.hosts.common.stage import StageOptions
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


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("ranks.t", 3, "a size that divides the 8 stripes of elastic.axes.ffn"),
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
    shown = "missing" if value is None else f"{value} "
    assert str(caught.value).startswith(f"recipe.{field}: {shown}") and why in str(caught.value)
