# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`quantization_config` of a folder in low precision, and ModelOpt's `hf_quant_config.json`: written and read.

ModelOpt and compressed-tensors have different words for the same few ways to store a weight: `WAYS` has both. A
quantisation that a cut would change is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nemo_elastic import __version__
from nemo_elastic.core import layout
from nemo_elastic.core.precision import BLOCK, FP8, NVFP4
from nemo_elastic.core.prediction import is_mtp
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.low_precision import check_cache, has_cache
from nemo_elastic.formats.schemes import COMPRESSED, LAYOUTS, MODELOPT, WEIGHT, Quantization, scheme_of
from nemo_elastic.io.read import read_json

__all__ = ["KEY", "OURS", "QUANT_FILE", "check_described", "described", "precision_of", "quantization_of"]

#: in `config.json`, and the file in which ModelOpt says the same
KEY, QUANT_FILE = "quantization_config", "hf_quant_config.json"
#: ModelOpt's name for the program that wrote a folder
OURS = {"name": "nemo-elastic", "version": __version__}
#: ModelOpt's name of several precisions in one folder
MIXED = "MIXED_PRECISION"

_FLOAT = {"type": "float", "symmetric": True, "dynamic": False}
_FLOAT4 = _FLOAT | {"num_bits": 4, "strategy": "tensor_group", "group_size": BLOCK}
_FLOAT8 = _FLOAT | {"num_bits": 8, "strategy": "tensor"}
_CHANNEL = {"strategy": "channel"}


class Way(NamedTuple):
    """One way to store a weight.

    Attributes:
        precision: nvfp4 or fp8.
        activations: whether the product's input has a scale in the folder.
        algorithm: ModelOpt's `quant_algo`.
        format, weights, inputs: compressed-tensors' `format`, `weights` and `input_activations` of a group.
    """

    precision: str
    activations: bool
    algorithm: str
    format: str
    weights: dict[str, Any]
    inputs: dict[str, Any] | None


#: of two with one name, the first is read
WAYS = (
    Way(NVFP4, True, "NVFP4", "nvfp4-pack-quantized", _FLOAT4, _FLOAT4 | {"dynamic": "local"}),
    Way(FP8, True, "FP8", "float-quantized", _FLOAT8, _FLOAT8),
    Way(NVFP4, False, "W4A16_NVFP4", "nvfp4-pack-quantized", _FLOAT4, None),
    Way(FP8, False, "FP8", "float-quantized", _FLOAT8, _FLOAT8 | {"strategy": "token", "dynamic": True}),
)
ALGORITHMS = tuple(dict.fromkeys(way.algorithm for way in WAYS))


def precision_of(config: Mapping[str, Any]) -> str | None:
    """The precision that a `config.json` names for most weights; None for full precision, or one of several."""
    given = config.get(KEY)
    name = given.get("quant_algo", given.get("format")) if isinstance(given, Mapping) else None
    return next((way.precision for way in WAYS if name in (way.algorithm, way.format)), None)


# ------------------------------------------------------------------ writing


def described(model: Checkpoint) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """`quantization_config` of a model with weights of low precision and its `hf_quant_config.json`, None where the
    layout has none.
    """
    parent, member, weights, mtp = model.parent, model.subnet, model.storage, model.mtp
    cache = has_cache(model.config.get(KEY), model.tensors)
    rows = [t for t in layout.tensors(parent, member) if len(t.shape) == 2 and t.hf.endswith("." + WEIGHT)]
    gates = ("mamba.conv_weight", "moe.gate")
    # what loaders build as linear layers: every matrix but embeddings and routers
    stay = sorted(_module(t.hf) for t in rows if t.row.name not in ("embedding", *gates) and t.hf not in weights)
    # no linear layer to transformers, and one to vLLM, which looks for it in the same list
    stay += sorted(_module(t.hf) for t in layout.tensors(parent, member) if t.row.name in gates)
    scaled = {name.rpartition(".")[0] for name in mtp if name.endswith(".weight_scale")}
    stay += sorted({_module(name) for name in mtp if name.endswith("." + WEIGHT)} - scaled)
    modules = {_module(name): kind for name, kind in weights.items()}
    kinds = list(dict.fromkeys(modules.values()))
    if kinds[0].scheme.layout == MODELOPT:
        return _to_modelopt(modules, kinds, stay, cache)
    return _to_compressed(kinds[0], stay, cache), None


def _module(weight: str) -> str:
    return weight.removesuffix("." + WEIGHT)


def _way(stored: Quantization) -> Way:
    return next(w for w in WAYS if (w.precision, w.activations) == (stored.scheme.precision, stored.activations))


def _to_modelopt(
    modules: Mapping[str, Quantization], kinds: Sequence[Quantization], stay: list[str], cache: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`quantization_config` and `hf_quant_config.json`, by ModelOpt's `convert_hf_config.py` and `quant_utils.py`."""

    def named(way: Way) -> dict[str, Any]:
        return {"quant_algo": way.algorithm} | {k: n for k, n in way.weights.items() if k == "group_size"}

    way = _way(kinds[0])
    scheme = named(way)
    if len(kinds) > 1:
        scheme = {"quant_algo": MIXED, "quantized_layers": {name: named(_way(kind)) for name, kind in modules.items()}}
    kept = "FP8" if cache else None
    file = {"producer": OURS, "quantization": scheme | {"kv_cache_quant_algo": kept, "exclude_modules": stay}}
    config = scheme | {"ignore": stay, "producer": OURS, "quant_method": MODELOPT}
    if cache:
        config["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "float"}
    if len(kinds) == 1:
        numbers = {k: way.weights[k] for k in ("dynamic", "num_bits", "type", "group_size") if k in way.weights}
        group = {"weights": numbers, "targets": ["Linear"]}
        config["config_groups"] = {"group_0": group | ({"input_activations": numbers} if way.activations else {})}
    return config, file


def _anywhere(module: str) -> str:
    """A module by a name that fits transformers, too, where the layers of a Nemotron-H are in `model`."""
    inside = module.removeprefix("backbone.")
    return module if inside == module else rf"re:(backbone|model)\.{re.escape(inside)}$"


def _to_compressed(kind: Quantization, stay: list[str], cache: bool) -> dict[str, Any]:
    """As compressed-tensors' `QuantizationConfig` has it."""
    way = _way(kind)
    group = {
        "targets": ["Linear"],
        "weights": way.weights | (_CHANNEL if kind.by_row else {}),
        "input_activations": way.inputs,
        "output_activations": None,
        "format": way.format,
    }
    return {
        "quant_method": COMPRESSED,
        "format": way.format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [_anywhere(name) for name in stay],
        "kv_cache_scheme": _FLOAT8 if cache else None,
    }


# ------------------------------------------------------------------ reading


def quantization_of(config: Mapping[str, Any], folder: Path) -> Quantization | None:
    """The storage scheme of most low-precision weights according to the folder's config, or None."""
    return next((said[0] for _, said in list(_sections(config, folder))), None)


def check_described(config: Mapping[str, Any], folder: Path, storage: Mapping[str, Quantization]) -> None:
    """Check that a model's weights of low precision are stored as its folder says.

    The quantized weights are read from the tensors; lists of modules are only for loaders, and cuts rewrite them.
    """
    for where, said in _sections(config, folder):
        known = {_in_words(stored): None for stored in said}
        for weight, stored in storage.items():
            if not is_mtp(weight) and (found := _in_words(stored)) not in known:
                raise ElasticError(f"{folder}: {weight} is {found}, but {where} says {' or '.join(known)}")


def _in_words(stored: Quantization) -> str:
    return f"{stored.scheme.precision} {'with' if stored.activations else 'without'} a scale of its inputs"


def _sections(config: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, list[Quantization]]]:
    """Each place of a folder that describes low precision: how it says weights are stored, the most frequent first."""
    where, given, method = f"{folder / 'config.json'}: {KEY}", config.get(KEY), None
    if given is not None:
        given = _mapping(where, given)
        method = given.get("quant_method")
        if method not in LAYOUTS:
            raise bad(f"{where}.quant_method", method, f"only {' or '.join(LAYOUTS)}: others cannot be cut")
        check_cache(given, where)
        yield KEY, (_of_modelopt if method == MODELOPT else _of_compressed)(given, where)
    path = folder / QUANT_FILE
    if not path.is_file():
        return
    if method == COMPRESSED:
        raise ElasticError(f"{path}: is of ModelOpt, but {KEY} in config.json is of {COMPRESSED}")
    whole, where = read_json(path), f"{path}: quantization"
    given = _mapping(where, whole.get("quantization") if isinstance(whole, Mapping) else None)
    check_cache(given, where)
    yield QUANT_FILE, _of_modelopt(given, where)


def _mapping(where: str, given: Any, of: str = "") -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise bad(where, given, f"a mapping{of}")
    return given


def _of_modelopt(section: Mapping[str, Any], where: str) -> list[Quantization]:
    if section.get("quant_algo") != MIXED:
        return [_algorithm(section, where, MIXED)]
    at = f"{where}.quantized_layers"
    layers = _mapping(at, section.get("quantized_layers"), " of modules")
    if not layers:
        raise bad(at, {}, "at least one module")
    read = (_algorithm(_mapping(f"{at}.{name}", entry), f"{at}.{name}") for name, entry in layers.items())
    return [stored for stored, _ in Counter(read).most_common()]


def _algorithm(section: Mapping[str, Any], where: str, *others: str) -> Quantization:
    name, size = section.get("quant_algo"), section.get("group_size")
    way = next((way for way in WAYS if way.algorithm == name), None)
    if way is None:
        raise bad(f"{where}.quant_algo", name, f"one of {', '.join((*ALGORITHMS, *others))}: others cannot be cut")
    if way.precision == NVFP4 and size is not None and (isinstance(size, bool) or size != BLOCK):
        raise bad(f"{where}.group_size", size, f"{BLOCK}: NVFP4 has no others")
    return Quantization(scheme_of(way.precision, MODELOPT), way.activations)


def _of_compressed(section: Mapping[str, Any], where: str) -> list[Quantization]:
    for key in ("transform_config", "sparsity_config"):
        value = section.get(key)
        if value and value != {"format": "dense"}:
            raise bad(f"{where}.{key}", value, "none: a member would lose the change")
    groups = _mapping(f"{where}.config_groups", section.get("config_groups"), " of groups")
    if len(groups) != 1:
        raise bad(f"{where}.config_groups", list(groups), "one group: others cannot be cut")
    ((name, group),) = groups.items()
    at = f"{where}.config_groups.{name}"
    way, stored = _group(_mapping(at, group), at)
    for field, format in ((at, group.get("format") or way.format), (where, section.get("format"))):
        if format != way.format:
            raise bad(f"{field}.format", format, f"{way.format}, by the group's weights")
    return [stored]


def _group(group: Mapping[str, Any], where: str) -> tuple[Way, Quantization]:
    given = _mapping(f"{where}.weights", group.get("weights"))
    own = {"symmetric": True, **given, "dynamic": bool(given.get("dynamic"))}
    for way in WAYS:
        forms = (way.weights, way.weights | _CHANNEL) if way.precision == FP8 else (way.weights,)
        if own.get("actorder") is None and any(form.items() <= own.items() for form in forms):
            break
    else:
        meant = f"floats of 4 bits in tensor_group of {BLOCK}, or of 8 in tensor or channel: others cannot be cut"
        raise bad(f"{where}.weights", dict(given), meant)
    inputs, scheme = group.get("input_activations"), scheme_of(way.precision, COMPRESSED)
    if inputs is None:
        return way, Quantization(scheme, False)
    dynamic = _mapping(f"{where}.input_activations", inputs).get("dynamic", False)
    if dynamic not in (True, False, "local"):
        raise bad(f"{where}.input_activations.dynamic", dynamic, "true, false or local")
    return way, Quantization(scheme, dynamic is not True)
