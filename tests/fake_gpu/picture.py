# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rank holds of each kind in its fullest moment, stage by stage: docs/images/fake_gpu.svg."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from nemo_elastic.report.style import INK, colour, headline, house, new_figure
from tests.fake_gpu.cases import GIB, steps_of
from tests.fake_gpu.gpu import MEMORY

#: as `Meter.held` counts them, then what comes and goes in a step
KINDS = ("weights", "teacher", "gradients", "optimizer", "activations and loss")


def draw(made: dict[str, dict[str, Any]]) -> Figure:
    """A bar for the fullest step of each job, in GiB, with a mark where `plan` expects its end."""
    with house():
        figure = new_figure(9.4, 0.36 * len(made) + 1.7)
        axes = figure.subplots()
        for place, result in enumerate(made.values()):
            step, left = max(steps_of(result), key=lambda each: each["peak"]), 0.0
            moment = step["peak"] - sum(step["held"].values())
            for i, size in enumerate((*step["held"].values(), moment)):
                label = KINDS[i] if place == 0 else None
                axes.barh(place, size / GIB, left=left, height=0.62, color=colour(i), label=label)
                left += size / GIB
            planned = result["planned"]["total"] / GIB
            axes.plot([planned, planned], [place - 0.42, place + 0.42], color=INK, lw=2,
                      label="plan" if place == 0 else None)  # fmt: skip
        axes.axvline(MEMORY / GIB, color=INK, lw=1, ls=":")
        axes.set_yticks(range(len(made)), [f"{name}\n{made[name]['layout']}" for name in made], fontsize=8, color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("GiB of a rank; dotted: an H100's memory")
        axes.legend(ncols=3, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.12))
        headline(figure, "What a rank of 128 holds", "in the fullest moment of a step")
    return figure
