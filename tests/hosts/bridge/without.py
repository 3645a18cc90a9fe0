# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A Bridge without Nemotron-H v1 and Nano v2: a parent comes from Hugging Face, trains and goes back by our tables.

0.7 is to drop these; today's Bridge has its conversion and its recipes taken away, or refuses the shape.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import is_exact
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.family_folder import slice_family, write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.verification import verify
from tests.hosts.bridge import layouts
from tests.hosts.bridge.recipes import recipe_of
from tests.parallel import forks
from tests.parallel.bridge import config as bridge_config
from tests.parallel.runs import VOCAB, Job, Layout, do, prepare_data
from tests.slicing.helpers import edit_json

#: that of `tests.parallel.runs.SHAPE`, of which the training's container is
DENSE = Parent(
    pattern="M-*-M*-M", hidden=32, vocab=VOCAB, ffn=64, mamba_heads=8, mamba_head_dim=8, mamba_groups=4, state=8,
    attention_heads=8, kv_heads=4, attention_head_dim=8,
)  # fmt: skip
_SIZES = {size: n for size, n in DENSE.sizes.items() if not size.startswith("ffn")}
EXPERTS = Parent(
    pattern="MEM*EM",
    sizes=_SIZES | {"experts": 4, "expert_ffn": 12, "shared_ffn": 16, "latent": 8, "top_k": 2, "routed_scaling": 2.5},
)
#: models: parent, dtype of the weights
MODELS = {
    "dense": (DENSE, torch.float32),
    "tied": (replace(DENSE, tied=True), torch.float32),
    "experts": (EXPERTS, torch.bfloat16),
}
#: model, ranks, and what of Bridge is missing
CASES = [
    ("dense", 1, "conversion"), ("dense", 1, "shape"), ("tied", 1, "conversion"), ("experts", 2, "conversion"),
    ("experts", 1, "nothing"),
]  # fmt: skip
#: families whose parents go
OURS = ("12b", "9b", "8b")
ARCHITECTURE = "NemotronHForCausalLM"
RECIPES = "megatron.bridge.recipes.nemotronh"


def take_away(what: str = "conversion") -> None:
    """Let Bridge be in this process as one without these models."""
    from megatron.bridge.models.conversion.auto_bridge import AutoBridge
    from megatron.bridge.models.conversion.model_bridge import get_model_bridge

    if what == "conversion":
        del get_model_bridge._exact_types[ARCHITECTURE]
        get_model_bridge._dispatch_cache.clear()
        assert ARCHITECTURE not in AutoBridge.list_supported_models()
        for package in ("megatron.bridge.recipes", RECIPES):
            for name in dir(importlib.import_module(package)):
                if name.startswith(("nemotron_nano_", "nemotronh_")):
                    delattr(sys.modules[package], name)
        sys.modules[f"{RECIPES}.nemotron_nano_v2"] = None  # pyright: ignore[reportArgumentType]
    elif what == "shape":

        def refuse(config: Any, path: Any = None) -> None:
            raise ValueError(f"{path}: hidden size {config.hidden_size}, {config.num_hidden_layers} layers: removed")

        AutoBridge._validate_config = staticmethod(refuse)


def strictly() -> None:
    """The same, and names that megatron-core has deprecated are errors."""
    take_away()
    warnings.filterwarnings("error", "(?is).*(mamba|hybrid).*deprecated")


def warns(container: Any) -> None:
    """Let the log have what megatron-core warns of; Bridge leaves it out."""
    container.logger.filter_warnings = False


def convert(place: Path, name: str, world: int, missing: str) -> dict[str, Any]:
    """From Hugging Face to megatron-core's layers and back, in PLACE/NAME-WORLD-MISSING.safetensors."""
    from megatron.bridge.models.conversion.auto_bridge import AutoBridge
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed
    from safetensors.torch import save_file

    from nemo_elastic.hosts.bridge.apply import use_our_layers
    from nemo_elastic.hosts.bridge.autobridge import NemotronH, auto_bridge
    from nemo_elastic.hosts.bridge.platform import without_cuda
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    take_away(missing)
    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    container = bridge_config(place, Job("convert", layout=Layout(tensor=world)))
    with cuda_as_cpu():
        model_parallel_cuda_manual_seed(1)
        bridge = auto_bridge(place / name)
        container.model = provider = bridge.to_megatron_provider()
        provider.tensor_model_parallel_size = world
        use_our_layers(provider)
        without_cuda(container)
        provider.finalize()
        (model,) = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)
        exported = dict(bridge.export_hf_weights([model], cpu=True, show_progress=False))
        if (name, world, missing) == CASES[0]:
            bridge.save_megatron_model([model], place / "imported")
    if torch.distributed.get_rank() == 0:
        file = place / f"{name}-{world}-{missing}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in exported.items()}, file)
    torch.distributed.barrier()
    return {
        "ours": isinstance(bridge._model_bridge, NemotronH),
        "registered": isinstance(AutoBridge(bridge.hf_pretrained)._model_bridge, NemotronH),
        "config": bridge._model_bridge.megatron_to_hf_config(provider),
    }


def recipes() -> dict[str, Any]:
    """Of the recipes of parents that have gone: the shape, and what `apply_elastic` says."""
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.bridge.apply import apply_elastic
    from nemo_elastic.hosts.bridge.cli import find_stock

    take_away()
    out = {}
    for size in OURS:
        family = recipe_of(size)
        assert find_stock(family.stock.__qualname__).__module__ == family.stock.__module__
        config = family.stock()
        shape = parent_of(config.model, VOCAB).to_json()
        run = apply_elastic(config, family.block, teacher="/a/parent", mock_data=True, verbose=False)
        out[size] = {"shape": shape, "changes": run.changes}
    return out


def refused(place: Path) -> str:
    """What is said of a parent with layers that predict further tokens."""
    from nemo_elastic.hosts.bridge.autobridge import auto_bridge

    take_away()
    folder = place / "predicts"
    shutil.copytree(place / "experts", folder)
    edit_json(folder / "config.json", num_nextn_predict_layers=1, mtp_hybrid_override_pattern="*E")
    try:
        auto_bridge(folder).to_megatron_provider()
    except ElasticError as error:
        return str(error)
    return "nothing"


def cut(place: Path) -> dict[str, bool | None]:
    """Cut the members of the training out, and check the family, and one of them against it."""
    run = place / "trained" / "checkpoints"
    slice_family(str(run), str(place), str(run / "elastic" / "ranking"))
    reports = verify(place / "family"), verify(place / "members" / "small", parent=place / "family")
    return {check.name: check.ok for report in reports for check in report.checks}


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    prepare_data(place)
    for name, (parent, dtype) in MODELS.items():
        state = {
            key: tensor if is_exact(key) else tensor.to(dtype)
            for key, tensor in random_state(parent, parent.full, seed=3).items()
        }
        family = write_family(place / f"{name}.family", parent, state, Family.of(parent, {"full": parent.full}))
        slice_checkpoint(family, place / name, member="full")
    facts = {}
    for case in CASES:
        name = "-".join(map(str, case))
        facts[name] = forks.run(place / "log" / name, case[1], convert, place, *case)[0]
    (trained,) = do(place, Job("trained", teacher=place / "imported", ranked=None, before=strictly, stock=warns))
    slice_checkpoint(place / "trained" / "checkpoints", place / "parent-cut", member="full")
    forks.run(place / "log" / "exported", 1, layouts.export, place, 1, "trained", take_away)
    return {
        "converted": facts,
        "trained": trained,
        "verified": forks.run(place / "log" / "cut", 1, cut, place)[0],
        "predicts": forks.run(place / "log" / "predicts", 1, refused, place)[0],
        "recipes": forks.run(place / "log" / "recipes", 1, recipes)[0],
    }
