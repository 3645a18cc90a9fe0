# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models that measure a cell differ in layers of its kind alone. Differences have medians and intervals.

Clocks here are numbers with known noise.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
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
from nemo_elastic.profile.measure import (
    FEW,
    LARGE,
    MANY,
    TIMED,
    Stop,
    _half,
    cells,
    difference,
    layer_of,
    layers_for,
    model_of,
    phases,
    widths_of,
)
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


@pytest.mark.parametrize(("parent", "kind"), [(NANO_12B, "mlp"), (PARENT, "mlp")])
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


# ------------------------------------------------------------------ how long it takes


class Clock:
    """A model whose seconds are known: `prompt_s` for a token of a prompt, `token_s` for one of an answer."""

    def __init__(self, prompt_s: float, token_s: float, noise: float = 0.0, drift: list[float] | None = None) -> None:
        self.prompt_s, self.token_s, self.noise = prompt_s, token_s, noise
        self.random, self.drift, self.asked = np.random.default_rng(0), drift or [1.0], []

    def seconds(self, prompt: int, new: int) -> float:
        self.asked.append((prompt, new))
        slow = self.drift[0] = self.drift[0] * (1.01 if len(self.drift) > 1 else 1)
        taken = prompt * self.prompt_s + (new - 1) * self.token_s * (prompt + 100)
        return taken * slow * (1 + self.noise * self.random.standard_normal())

    def close(self) -> None: ...


def test_a_token_is_timed_in_the_middle_of_an_answer() -> None:
    model = Clock(1e-3, 1e-5)
    by_phase = phases(model, Workload(1, 50, 101))
    assert model.asked == [(50, 1), (92, 1), (92, 1 + TIMED)]
    assert by_phase == pytest.approx([50e-3, 192e-5])
    model = Clock(1e-3, 1e-5)
    phases(model, Workload(1, 50, 2))
    assert model.asked == [(50, 1), (50, 2)]


def test_a_difference_ends_when_it_is_known_and_lies_in_its_interval() -> None:
    first, second = Clock(1e-3, 1e-4, 0.01), Clock(1.5e-3, 2e-4, 0.01)
    stop = Stop(0.01, (6, 400), 60.0)
    taken = difference(first, second, Workload(1, 50, 3), stop)
    assert 6 <= taken.rounds < 400
    assert abs(taken.seconds[PREFILL] - 25e-3) < 3 * taken.bounds[PREFILL]
    assert all(taken.bounds[p] <= 0.01 * taken.first[p] for p in (PREFILL, DECODE))
    still = difference(Clock(1e-3, 1e-5), Clock(1.5e-3, 2e-5), Workload(1, 50, 3), stop)
    assert still.rounds == 6 and still.bounds[PREFILL] == pytest.approx(0, abs=1e-12)
    alone = difference(None, Clock(1e-3, 1e-5), Workload(1, 50, 3), stop)
    assert alone.seconds[PREFILL] == pytest.approx(50e-3)
    # 0.4 ms a token are outside of what the second has twice
    rest = difference(Clock(1e-3, 1e-5), Clock(1.6e-3, 1.5e-5), Workload(1, 50, 3), stop, rest=True)
    assert rest.seconds[PREFILL] == pytest.approx(0.4 * 50e-3)


def test_a_machine_that_slows_down_slows_both_models() -> None:
    drift = [1.0, 1.0]  # shared: one machine
    taken = difference(Clock(1e-3, 1e-5, drift=drift), Clock(2e-3, 1e-5, drift=drift), Workload(1, 50, 3), Stop(1e-9))
    ratio = taken.seconds[PREFILL] / taken.first[PREFILL]
    assert ratio == pytest.approx(1, abs=0.05), "each round compares neighbours"


def test_measuring_ends_after_its_rounds_or_its_seconds() -> None:
    noisy = (Clock(1e-3, 1e-5, 0.5), Clock(2e-3, 1e-5, 0.5))
    assert difference(*noisy, Workload(1, 50, 3), Stop(1e-6, (6, 9), 60.0)).rounds == 9
    assert difference(*noisy, Workload(1, 50, 3), Stop(1e-6, (6, 9), 0.0)).rounds == 1
    late = difference(*noisy, Workload(1, 50, 3), Stop(1e-6, (6, 9), 1e-9))
    assert late.rounds == 6 and all(map(math.isfinite, late.bounds.values())), "an interval takes six, however late"


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    for n in (6, 11, 30):
        samples = random.exponential(size=(2000, n, 1))  # skewed: nothing is assumed of the distribution
        held = 0
        for sample in samples:
            middle, half = float(np.median(sample)), float(_half(sample)[0])
            held += abs(middle - np.log(2)) <= 2 * half
        assert held / len(samples) > 0.93
    assert all(np.isinf(_half(random.random((n, 2)))).all() for n in range(1, 6)), "five samples bound nothing"
