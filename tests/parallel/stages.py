# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What every pipeline stage loads of the parent's checkpoint, and what it holds of its teacher."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from tests.parallel.runs import SHAPE, Layout


class Built(Exception):
    """A model is there; there is no need to train it."""


def loaded(place: Path, out: Path, layout: Layout) -> dict[str, Any]:
    """Build on this rank what a run builds.

    Returns:
        Names that student and teacher hold, as the whole model calls them, and whether all have the parent's values.
    """
    import fiddle
    from megatron.core import parallel_state

    from nemo_elastic.formats.adapter import from_parts
    from nemo_elastic.formats.megatron.metadata import PREFIX
    from nemo_elastic.formats.megatron.stored import plain_tensors
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from tests.parallel import runs

    runs.quiet()
    results: dict[str, Any] = {}
    build = ElasticMambaModel.configure_model

    def watched(self: Any, *args: Any, **more: Any) -> None:
        build(self, *args, **more)
        plain = {k.removeprefix(PREFIX): v for k, v in plain_tensors(runs.parent(place)).items()}
        whole = from_parts(self.parent, self.parent.full, plain)
        first = parallel_state.get_pipeline_model_parallel_rank() * SHAPE["num_layers"] // layout.pipeline
        for name, core in (("student", self.host.core), ("teacher", self.host.frozen)):
            held = {} if core is None else dict(core.named_parameters())
            held = {global_name(k, first): p for k, p in held.items() if not k.startswith("elastic.")}
            results[name] = sorted(held)
            results[f"{name} is the parent"] = all(torch.equal(p.detach(), whole[k]) for k, p in held.items())
        raise Built

    ElasticMambaModel.configure_model = watched
    try:
        fiddle.build(runs.elastic_task(place, out, layout, 2))()
    except Built:
        return results
    raise AssertionError("no model was built")


def global_name(name: str, first: int) -> str:
    """A parameter's name in the whole model; a stage counts its layers from 0."""
    return re.sub(r"(?<=layers\.)\d+", lambda match: str(int(match[0]) + first), name)
