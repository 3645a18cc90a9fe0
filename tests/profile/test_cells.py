# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models that measure a cell differ in layers of its kind alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.cost import active_parameters, flops_per_token, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.latency import DECODE, OUTSIDE, PREFILL, LatencyTable, Workload
from nemo_elastic.formats.hf.config import from_hf_config, to_hf_config
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.plan.machine import EFFICIENCY, GPUS
from nemo_elastic.profile.cells import FEW, LARGE, MANY, cells, layer_of, layers_for, model_of, widths_of
from nemo_elastic.profile.roofline import READ, on_paper
from tests.core.test_latency import AXES, SHAPE, ends
from tests.shapes import NANO_12B, NANO_30B, PARENT


def whole(parent: Parent) -> dict[str, AxisConfig]:
    """The whole width of every axis."""
    return {a: AxisConfig((parent.num_layers if a == DEPTH else parent.axis(a).size,)) for a in parent.axes}


CASES = {"dense": (PARENT, ends(PARENT)), "experts": (SHAPE, AXES)}


@pytest.mark.parametrize("case", CASES)
def test_two_models_of_a_cell_differ_by_layers_of_its_kind_and_widths(case: str) -> None:
    parent, axes = CASES[case]
    widths = widths_of(parent, axes, 3)
    seen = Counter(cell.kind for cell in cells(widths))
    assert set(seen) == {*parent.types, OUTSIDE}
    for cell in cells(widths):
        if cell.kind == OUTSIDE:
            own, few = model_of(parent, cell, 2, widths)
            twice, many = model_of(parent, cell, 4, widths)
            assert own.vocab == parent.vocab and Counter(own.types) == Counter(2 * [*set(parent.types)])
            # twice the smaller one without the larger one is what is outside of layers
            bare = Subnet(few.hidden, ())
            assert 2 * parameters(own, few) - parameters(twice, many) == parameters(parent, bare)
            continue
        (small, few), (large, many) = (model_of(parent, cell, n, widths) for n in (2, 4))
        one = parameters(parent, layer_of(parent, cell)) - parameters(parent, Subnet(few.hidden, ()))
        assert parameters(large, many) - parameters(small, few) == 2 * one
        assert Counter(x.type for x in many.layers)[cell.kind] == 4
        # every engine takes it: one width for each kind of layer
        config = to_hf_config(large, many)
        assert config["model_type"] == "nemotron_h"
        read, held = from_hf_config(config)
        assert parameters(read, held) == parameters(large, many)
        logits = NemotronH.random(large, member=many)(torch.ones(1, 3, dtype=torch.long))
        assert logits.shape == (1, 3, large.vocab) and torch.isfinite(logits).all()


def test_some_widths_of_an_axis_are_its_ends_and_what_lies_evenly_between() -> None:
    axes = ends(PARENT)
    full = PARENT.size("ffn")
    axes["ffn"] = replace(axes["ffn"], choices=tuple(range(full, 3, -4)))
    some = widths_of(PARENT, axes, 3)["mlp"]["ffn"]
    assert some[0] == axes["ffn"].choices[-1] and some[-1] == full and len(some) == 3
    assert widths_of(PARENT, axes, 64)["mlp"]["ffn"] == tuple(reversed(axes["ffn"].choices))


@pytest.mark.parametrize(("parent", "kind"), [(NANO_12B, "mlp"), (NANO_12B, "attention"), (PARENT, "mlp")])
def test_models_are_large_enough_that_weights_are_not_in_a_processors_cache(parent: Parent, kind: str) -> None:
    widths = widths_of(parent, whole(parent), 2)
    cell = next(cell for cell in cells(widths) if cell.kind == kind)
    number = layers_for(parent, cell, widths, "bf16")
    assert FEW <= number <= MANY
    one = parameters(parent, layer_of(parent, cell)) - parameters(parent, Subnet(parent.hidden, ()))
    assert 2 * number * one >= LARGE or number == MANY
    assert number == FEW or 2 * (number - 1) * one < LARGE
    assert layers_for(parent, cell, widths, "fp32") <= number


@pytest.mark.parametrize("parent", [NANO_12B, NANO_30B], ids=["12b", "30b"])
def test_on_paper_a_token_takes_the_reading_of_weights_and_a_long_prompt_its_flops(parent: Parent) -> None:
    widths, gpu = widths_of(parent, whole(parent), 2), GPUS["h100"]

    def seconds(work: Workload) -> dict[str, float]:
        table: LatencyTable = on_paper(parent, widths, work, "h100")
        return table.seconds(parent, parent.full)

    one = seconds(Workload(1, 8192, 2, "bf16"))
    weights = active_parameters(parent, parent.full) - parent.vocab * parent.hidden  # the embedding is looked up
    reading = 2 * weights / (gpu.bandwidth * READ)
    assert reading < one[DECODE] < 1.35 * reading  # the cache of 8,192 tokens comes on top
    products = 8192 * flops_per_token(parent, parent.full, 8192, head=False) / (gpu.flops * EFFICIENCY)
    assert one[PREFILL] == pytest.approx(products, rel=0.05)
    many = seconds(Workload(64, 1, 2, "bf16"))
    if "E" in parent.pattern:  # tokens of a batch meet other experts
        assert many[DECODE] > 4 * one[DECODE]
