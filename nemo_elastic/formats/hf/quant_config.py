# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`quantization_config` of a folder in low precision, and ModelOpt's `hf_quant_config.json`: written and read.

ModelOpt and compressed-tensors have different words for the same few ways to store a weight: `WAYS` has both. Loaders
go by these words, so they are checked against the tensors; a quantisation that a cut would change is refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from nemo_elastic import __version__
from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.precision import BLOCK, FP8, NVFP4
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.low_precision import check_cache, has_cache
from nemo_elastic.formats.schemes import COMPRESSED, LAYOUTS, MODELOPT, WEIGHT, Stored, scheme_of
from nemo_elastic.io.read import read_json

__all__ = ["KEY", "OURS", "QUANT_FILE", "check_described", "described", "linear_modules", "low_of", "precision_of"]

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


def linear_modules(parent: Parent, member: Subnet) -> dict[str, str]:
    """Weight -> module, of all that loaders build as linear layers: every matrix but embeddings and routers."""
    own = [t for t in layout.tensors(parent, member) if len(t.shape) == 2 and t.hf.endswith("." + WEIGHT)]
    return {t.hf: t.hf.removesuffix("." + WEIGHT) for t in own if t.row.name not in ("embedding", "moe.gate")}


def described(model: Checkpoint) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """`quantization_config` of a model with weights of low precision and its `hf_quant_config.json`, None where the
    layout has none.
    """
    parent, member, weights, mtp = model.parent, model.subnet, model.storage, model.mtp
    cache = has_cache(model.config.get(KEY), model.tensors)
    modules = linear_modules(parent, member)
    stay = sorted(module for weight, module in modules.items() if weight not in weights)
    # no linear layer to transformers, and one to vLLM, which looks for it in the same list
    stay += sorted(
        t.hf.removesuffix("." + WEIGHT)
        for t in layout.tensors(parent, member)
        if t.row.name in ("mamba.conv_weight", "moe.gate")
    )
    scaled = {name.rpartition(".")[0] for name in mtp if name.endswith(".weight_scale")}
    stay += sorted({name.removesuffix("." + WEIGHT) for name in mtp if name.endswith("." + WEIGHT)} - scaled)
    own = {name.removesuffix("." + WEIGHT): kind for name, kind in weights.items()}
    kinds = list(dict.fromkeys(own.values()))
    if kinds[0].scheme.layout == MODELOPT:
        return _to_modelopt(own, kinds, stay, cache)
    if len(kinds) > 1:
        raise ElasticError(f"weights in low precision: {COMPRESSED} with more than one group cannot be cut")
    return _to_compressed(kinds[0], stay, cache), None


def _way(stored: Stored) -> Way:
    return next(w for w in WAYS if (w.precision, w.activations) == (stored.scheme.precision, stored.activations))


def _to_modelopt(
    modules: Mapping[str, Stored], kinds: Sequence[Stored], stay: list[str], cache: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As ModelOpt's `export/quant_utils.py` and `export/convert_hf_config.py` write both."""

    def named(way: Way) -> dict[str, Any]:
        return {"quant_algo": way.algorithm} | {k: n for k, n in way.weights.items() if k == "group_size"}

    way = _way(kinds[0])
    own = named(way)
    if len(kinds) > 1:
        own = {"quant_algo": MIXED, "quantized_layers": {name: named(_way(kind)) for name, kind in modules.items()}}
    kept = "FP8" if cache else None
    file = {"producer": OURS, "quantization": own | {"kv_cache_quant_algo": kept, "exclude_modules": stay}}
    config = own | {"ignore": stay, "producer": OURS, "quant_method": MODELOPT}
    if cache:
        config["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "float"}
    if len(kinds) == 1:
        numbers = {k: way.weights[k] for k in ("dynamic", "num_bits", "type", "group_size") if k in way.weights}
        group = {"weights": numbers, "targets": ["Linear"]}
        config["config_groups"] = {"group_0": group | ({"input_activations": numbers} if way.activations else {})}
    return config, file


def _to_compressed(kind: Stored, stay: list[str], cache: bool) -> dict[str, Any]:
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
        "ignore": [anywhere(name) for name in stay],
        "kv_cache_scheme": _FLOAT8 if cache else None,
    }


# ------------------------------------------------------------------ reading


class Section(NamedTuple):
    """A description of a folder's low precision.

    Attributes:
        says: module -> how its weight is stored; None: it stays as it is.
        main: how most weights are stored.
    """

    says: Callable[[str], Stored | None]
    main: Stored


def low_of(config: Mapping[str, Any], folder: Path) -> Stored | None:
    """How most of a folder's weights of low precision are stored, by what it says; None where there are none."""
    return next((section.main for _, section in list(_sections(config, folder))), None)


def check_described(
    config: Mapping[str, Any], folder: Path, modules: Mapping[str, str], low: Mapping[str, Stored]
) -> None:
    """Check a folder's description of its low precision against its weights; `modules` as from `linear_modules`."""
    for where, section in _sections(config, folder):
        for weight, module in modules.items():
            if wrong := _contradiction(low.get(weight), section.says(module)):
                raise ElasticError(f"{folder}: {weight} {wrong[0]}, but {where} says that it {wrong[1]}")


def _contradiction(own: Stored | None, said: Stored | None) -> tuple[str, str] | None:
    """How a weight is stored, and how it is described, in words; None where both are the same."""
    if own is None or said is None:
        if own is said:
            return None
        return ("is not quantised", "is") if own is None else ("is quantised", "is not")
    if said.scheme != own.scheme:
        return f"is {own.scheme.precision}", f"is {said.scheme.precision}"
    if said.activations == own.activations:
        return None
    has = ("has a scale of its inputs", "has none")
    return has if own.activations else ("has no scale of its inputs", "has one")


def _sections(config: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Section]]:
    """Each place of a folder that describes low precision, by name."""
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


def _of_modelopt(section: Mapping[str, Any], where: str) -> Section:
    if section.get("quant_algo") == MIXED:
        at = f"{where}.quantized_layers"
        layers = _mapping(at, section.get("quantized_layers"), " of modules")
        read = {name: _algorithm(_mapping(f"{at}.{name}", own), f"{at}.{name}") for name, own in layers.items()}
        named = {own: said for name, said in read.items() for own in modules_in([name], where).names}
        if not named:
            raise bad(at, {}, "at least one module")
        return Section(named.get, Counter(named.values()).most_common(1)[0][0])
    said = _algorithm(section, where, MIXED)
    stay = [modules_in(section.get(key), f"{where}.{key}") for key in ("ignore", "exclude_modules")]
    return Section(lambda module: None if any(module in own for own in stay) else said, said)


def _algorithm(section: Mapping[str, Any], where: str, *others: str) -> Stored:
    name, size = section.get("quant_algo"), section.get("group_size")
    way = next((way for way in WAYS if way.algorithm == name), None)
    if way is None:
        raise bad(f"{where}.quant_algo", name, f"one of {', '.join((*ALGORITHMS, *others))}: others cannot be cut")
    if way.precision == NVFP4 and size is not None and (isinstance(size, bool) or size != BLOCK):
        raise bad(f"{where}.group_size", size, f"{BLOCK}: NVFP4 has no others")
    return Stored(scheme_of(way.precision, MODELOPT), way.activations)


def _of_compressed(section: Mapping[str, Any], where: str) -> Section:
    for key in ("transform_config", "sparsity_config"):
        value = section.get(key)
        if value and value != {"format": "dense"}:
            raise bad(f"{where}.{key}", value, "none: a member would lose the change")
    groups = _mapping(f"{where}.config_groups", section.get("config_groups"), " of groups")
    if len(groups) != 1:
        raise bad(f"{where}.config_groups", list(groups), "one group: others cannot be cut")
    stay = modules_in(section.get("ignore"), f"{where}.ignore")
    ((name, group),) = groups.items()
    at = f"{where}.config_groups.{name}"
    way, said = _group(_mapping(at, group), at)
    for field, format in ((at, group.get("format") or way.format), (where, section.get("format"))):
        if format != way.format:
            raise bad(f"{field}.format", format, f"{way.format}, by the group's weights")
    targets = modules_in(group.get("targets"), f"{at}.targets")
    every = "Linear" in targets.names
    return Section(lambda module: said if (every or module in targets) and module not in stay else None, said)


def _group(group: Mapping[str, Any], where: str) -> tuple[Way, Stored]:
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
        return way, Stored(scheme, False)
    dynamic = _mapping(f"{where}.input_activations", inputs).get("dynamic", False)
    if dynamic not in (True, False, "local"):
        raise bad(f"{where}.input_activations.dynamic", dynamic, "true, false or local")
    return way, Stored(scheme, dynamic is not True)


# ------------------------------------------------------------------ lists of modules

# Names, shell patterns, and regular expressions after `re:`. Python's may take exponential time on a folder from
# anywhere, so they are read as shell patterns, which never backtrack; an expression that is none is refused.

#: characters of all shell patterns of a list, and shell patterns for one regular expression
_LONGEST, _MOST = 2**13, 256
#: choices in a regular expression, and numbers of layers and experts as such choices
_CHOICES = re.compile(r"\((?:\?:)?([^()]*)\)")
_NUMBER, _NUMBERS = re.compile(r"(?:\\d|\[0-9\])\+"), r"(\\d|\\d\\d|\\d\\d\\d)"
#: everything else in it, and the shell pattern for it
_PIECE = re.compile(r"\\[d.-]|\[\^?[\w.-]+\]|\.[*+]?|[\w-]")
_SHELL = {".": "?", ".*": "*", ".+": "?*", r"\d": "[0-9]"}


@dataclass(frozen=True)
class Modules:
    """Modules of a list: those with a name in it, and those that its patterns match (`others`)."""

    names: frozenset[str]
    others: re.Pattern[str] | None = None

    def __contains__(self, module: str) -> bool:
        # transformers has the layers of a Nemotron-H in `model`
        there = "model." + module.removeprefix("backbone.")
        return module in self.names or (self.others is not None and any(map(self.others.match, (module, there))))


def anywhere(module: str) -> str:
    """A module by a name that fits transformers, too, where the layers of a Nemotron-H are in `model`."""
    inside = module.removeprefix("backbone.")
    return module if inside == module else rf"re:(backbone|model)\.{re.escape(inside)}$"


def modules_in(given: Any, where: str) -> Modules:
    """Read a list of modules; None is an empty one. `where` is the field, for errors."""
    if not isinstance(given, list | None) or not all(isinstance(p, str) for p in given or ()):
        raise bad(where, given, "a list of modules")
    shell: list[str] = []
    for pattern in dict.fromkeys(given or ()):
        try:
            shell += _shell(pattern.removeprefix("re:")) if pattern.startswith("re:") else [pattern]
        except ValueError:
            meant = r"an expression of names, ., .*, .+, \d+, [a-z], (a|b), ^ and $"
            raise bad(where, pattern, meant) from None
    patterns = [p for p in shell if any(c in p for c in "*?[")]
    if (length := sum(map(len, patterns))) > _LONGEST:
        raise bad(where, length, f"patterns with at most {_LONGEST} characters in all")
    names = {re.sub(r"^model\.", "backbone.", p) for p in shell} - set(patterns)
    return Modules(frozenset(names), re.compile("|".join(map(translate, patterns))) if patterns else None)


def _shell(expression: str) -> Iterator[str]:
    """Shell patterns that together match the names that a regular expression matches; ValueError without any."""
    text = _NUMBER.sub(_NUMBERS, expression)
    parts = [part.split("|") if i % 2 else [part] for i, part in enumerate(_CHOICES.split(text))]
    if len(text) > _LONGEST or math.prod(map(len, parts)) > _MOST:
        raise ValueError
    for chosen in product(*parts):
        for own in "".join(chosen).split("|"):
            inside = own.removeprefix("^").removesuffix("$")
            pieces: list[str] = _PIECE.findall(inside)
            if "".join(pieces) != inside:
                raise ValueError
            # compressed-tensors matches the start of a name
            end = "" if own.endswith("$") else "*"
            yield "".join(_SHELL.get(p, p.removeprefix("\\").replace("[^", "[!")) for p in pieces) + end
