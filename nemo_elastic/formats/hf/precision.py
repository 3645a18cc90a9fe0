# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a folder's files say of its low precision, read and held against its tensors: loaders go by what they say.

`quantization_config` of `config.json`, in ModelOpt's words or in compressed-tensors', and ModelOpt's own file. What
cannot be cut is refused here: other formats, and what would be lost, such as a rotation of the inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_elastic.core.precision import BLOCK, FP8, NVFP4
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.low_precision import COMPRESSED, LAYOUTS, MODELOPT, Stored, check_cache, scheme_of
from nemo_elastic.io.read import read_json

from .patterns import modules_in
from .quantization import ALGORITHMS, KEY, MIXED, MIXED_STORED, QUANT_FILE, STORED, WEIGHTS_ONLY

__all__ = ["check_described", "low_of", "precision_of"]

FORMATS = (*STORED.values(), MIXED_STORED)
#: in compressed-tensors' words: bits -> precision, and the strategies that we read
_WEIGHTS = {4: (NVFP4, ("tensor_group",)), 8: (FP8, ("tensor", "channel"))}
_MEANT = "floats of 4 bits in tensor_group of 16, or of 8 in tensor or channel: others cannot be cut"
#: of compressed-tensors: what changes weights or inputs in other ways
_CHANGES = ("transform_config", "sparsity_config")


@dataclass(frozen=True)
class Section:
    """A place where a folder speaks of low precision.

    Attributes:
        says: how a module's weight is stored; None: it stays as it is.
        main: the same of most modules.
        where: what messages call the place.
    """

    says: Callable[[str], Stored | None]
    main: Stored
    where: str = ""


def low_of(config: Mapping[str, Any], folder: Path) -> Stored | None:
    """How most of a folder's weights of low precision are stored, by what it says; None where there are none.

    Raises:
        ElasticError: a quantisation that cannot be cut.
    """
    return next((section.main for section in list(_sections(config, folder))), None)


def check_described(
    config: Mapping[str, Any], folder: Path, modules: Mapping[str, str], low: Mapping[str, Stored]
) -> None:
    """Check that what a folder says of its modules is what their weights are.

    Args:
        config: its `config.json`.
        folder: it.
        modules: see `linear_modules`.
        low: weights of low precision: how they are stored.

    Raises:
        ElasticError: one is quantised, and said to be none, or the other way round, or in another way.
    """
    for section in _sections(config, folder):
        for weight, module in modules.items():
            wrong = _contradiction(section.says(module), low.get(weight))
            if wrong is not None:
                raise ElasticError(f"{folder}: {weight} {wrong[0]}, and by the folder's {section.where} it {wrong[1]}")


def _contradiction(said: Stored | None, stored: Stored | None) -> tuple[str, str] | None:
    """What a weight is, and what is said that it is; None where both are the same."""
    if stored is None:
        return None if said is None else ("is not quantised", "is")
    if said is None:
        return "is quantised", "stays as it is"
    if said.scheme != stored.scheme:
        return f"is {stored.scheme.precision}", f"is {said.scheme.precision}"
    if said.activations != stored.activations:
        return (("has no scale of its inputs", "has one"), ("has a scale of its inputs", "has none"))[
            stored.activations
        ]
    return None


def precision_of(config: Mapping[str, Any]) -> str | None:
    """The precision that a `config.json` names for most weights; None for full precision, or one of several."""
    given = config.get(KEY)
    if not isinstance(given, Mapping):
        return None
    names = {ALGORITHMS[p]: p for p in ALGORITHMS} | {STORED[p]: p for p in STORED} | {WEIGHTS_ONLY: NVFP4}
    return names.get(str(given.get("quant_algo", given.get("format"))))


def _sections(config: Mapping[str, Any], folder: Path) -> Iterator[Section]:
    """Each place where a folder speaks of low precision."""
    where = f"{folder / 'config.json'}: quantization_config"
    given, method = config.get(KEY), None
    if given is not None:
        given = _as_mapping(where, given, "a mapping")
        method = given.get("quant_method")
        if method not in LAYOUTS:
            raise bad(f"{where}.quant_method", method, f"only {' or '.join(LAYOUTS)}: others cannot be cut")
        check_cache(given, where)
        section = (_modelopt if method == MODELOPT else _compressed)(given, where)
        yield replace(section, where=KEY)
    path = folder / QUANT_FILE
    if not path.is_file():
        return
    if method == COMPRESSED:
        raise ElasticError(f"{path}: is ModelOpt's, and {KEY} in config.json is {COMPRESSED}'s")
    whole = read_json(path)
    inside = f"{path}: quantization"
    given = whole.get("quantization") if isinstance(whole, Mapping) else None
    given = _as_mapping(inside, given, "a mapping")
    check_cache(given, inside)
    yield replace(_modelopt(given, inside), where=QUANT_FILE)


def _as_mapping(where: str, given: Any, of: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise bad(where, given, of)
    return given


# ------------------------------------------------------------------ ModelOpt


def _modelopt(section: Mapping[str, Any], where: str) -> Section:
    if section.get("quant_algo") == MIXED:
        layers = _as_mapping(f"{where}.quantized_layers", section.get("quantized_layers"), "a mapping of modules")
        named = {
            own: _algorithm(
                _as_mapping(f"{where}.quantized_layers.{name}", layer, "a mapping"), f"{where}.quantized_layers.{name}"
            )
            for name, layer in layers.items()
            for own in modules_in([name], where).names
        }
        if not named:
            raise bad(f"{where}.quantized_layers", {}, "one module at least")
        return Section(named.get, Counter(named.values()).most_common(1)[0][0])
    said = _algorithm(section, where, (MIXED,))
    stay = [modules_in(section.get(key), f"{where}.{key}") for key in ("ignore", "exclude_modules")]
    return Section(lambda module: None if any(module in own for own in stay) else said, said)


def _algorithm(section: Mapping[str, Any], where: str, others: tuple[str, ...] = ()) -> Stored:
    known = {ALGORITHMS[precision]: Stored(scheme_of(precision, MODELOPT), True) for precision in ALGORITHMS}
    known[WEIGHTS_ONLY] = Stored(scheme_of(NVFP4, MODELOPT), False)
    name = section.get("quant_algo")
    if not isinstance(name, str) or name not in known:
        raise bad(f"{where}.quant_algo", name, f"one of {', '.join((*known, *others))}: others cannot be cut")
    size = section.get("group_size")
    if known[name].scheme.block and size is not None and (isinstance(size, bool) or size != BLOCK):
        raise bad(f"{where}.group_size", size, f"{BLOCK}: NVFP4 has no others")
    return known[name]


# ------------------------------------------------------------------ compressed-tensors


def _compressed(section: Mapping[str, Any], where: str) -> Section:
    whole = section.get("format")
    if not isinstance(whole, str) or whole not in FORMATS:
        raise bad(f"{where}.format", whole, f"one of {', '.join(FORMATS)}: others cannot be cut")
    for key in _CHANGES:
        value = section.get(key)
        if value and value != {"format": "dense"}:
            raise bad(f"{where}.{key}", value, "none: what it changes a member would lose")
    groups = _as_mapping(f"{where}.config_groups", section.get("config_groups"), "a mapping of groups")
    if not groups:
        raise bad(f"{where}.config_groups", groups, "one group at least")
    stay = modules_in(section.get("ignore"), f"{where}.ignore")
    read = []
    for name, group in groups.items():
        at = f"{where}.config_groups.{name}"
        said = _group(_as_mapping(at, group, "a mapping"), at)
        for key, format in (("format", group.get("format")), ("", whole)):
            if format not in (None, MIXED_STORED, STORED[said.scheme.precision]):
                meant = f"{at} is {STORED[said.scheme.precision]}"
                raise bad(f"{at}.format" if key else f"{where}.format", format, meant)
        targets = modules_in(group.get("targets"), f"{at}.targets")
        read.append((targets, said))

    def says(module: str) -> Stored | None:
        if module in stay:
            return None
        # a module's own name goes before that of its class
        named = [said for targets, said in read if module in targets]
        return next(iter(named or [said for targets, said in read if "Linear" in targets.names]), None)

    # of two groups none is the larger: their targets are patterns
    return Section(says, read[0][1])


def _group(group: Mapping[str, Any], where: str) -> Stored:
    weights = _as_mapping(f"{where}.weights", group.get("weights"), "a mapping")
    bits = weights.get("num_bits")
    precision, strategies = _WEIGHTS.get(bits if type(bits) is int else 0, (None, ()))
    wrong = (
        weights.get("type") != "float"
        or weights.get("strategy") not in strategies
        or weights.get("symmetric", True) is not True
        or bool(weights.get("dynamic"))
        or weights.get("actorder") is not None
        or (precision == NVFP4 and weights.get("group_size") != BLOCK)
    )
    if precision is None or wrong:
        raise bad(f"{where}.weights", dict(weights), _MEANT)
    inputs = group.get("input_activations")
    if inputs is None:
        return Stored(scheme_of(precision, COMPRESSED), False)
    dynamic = _as_mapping(f"{where}.input_activations", inputs, "a mapping").get("dynamic", False)
    if dynamic not in (True, False, "local"):
        raise bad(f"{where}.input_activations.dynamic", dynamic, "true, false or local")
    return Stored(scheme_of(precision, COMPRESSED), dynamic is not True)
