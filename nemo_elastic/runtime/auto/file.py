# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`auto.json`: a calibration beside the family that it was made of, and of no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_elastic.core.family import known_names
from nemo_elastic.core.manifest import CALIBRATION as FILE
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checksums import family_digest, held_family
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.read import read_json
from nemo_elastic.io.values import integer, number

from .calibration import STEPS, Calibration
from .signals import SIGNALS

VERSION = 1
#: no weight, mean or price of real signals is near it; sums of such numbers stay finite
MOST = 1e12


def write_calibration(
    folder: Path, calibration: Calibration, replace: bool = False, digest: str | None = None
) -> Path:
    """Write it beside the family.

    Args:
        folder: of the family.
        calibration: what was found.
        replace: whether an older one may be replaced.
        digest: `family_digest` of what was measured, which another may have replaced meanwhile.

    Raises:
        ElasticError: there is one already and it may not be replaced, another family is there, or the place cannot be
            written.
    """
    signals = [
        {"name": name, "mean": mean, "spread": spread}
        for name, mean, spread in zip(SIGNALS, calibration.means, calibration.spreads, strict=True)
    ]
    sizes = zip(calibration.members, calibration.parameters, strict=True)
    path = folder / FILE
    with held_family(folder, digest):
        told = {
            "version": VERSION,
            "family": family_digest(folder),
            "members": [{"name": name, "parameters": count} for name, count in sizes],
            "signals": signals,
            "climbs": [list(climb) for climb in calibration.climbs],
            "prices": list(calibration.prices),
        }
        atomic_write(path, json.dumps(told, indent=2) + "\n", replace)
    return path


def read_calibration(folder: Path, members: Mapping[str, int]) -> Calibration:
    """Read and check the calibration of a family folder.

    Args:
        folder: of the family.
        members: its names and their parameters, in any order.

    Raises:
        ElasticError: there is none, it is damaged, or it was made of another family.
    """
    path = folder / FILE
    if not path.is_file():
        raise ElasticError(f"{folder}: was not calibrated; nemo-elastic calibrate {folder} --data DIR does it", "auto")
    told = read_json(path)
    try:
        found = _calibration(told)
    except ElasticError as exc:
        raise exc.within(path) from None
    own = dict(zip(found.members, found.parameters, strict=True))
    if told["family"] != family_digest(folder) or own != dict(members):
        raise ElasticError("was made of another family, or before it was trained on; calibrate again", path)
    return found


def _calibration(told: Any) -> Calibration:
    fields = ("version", "family", "members", "signals", "climbs", "prices")
    known_names(fields, told, "calibration")
    if told.get("version") != VERSION or isinstance(told["version"], bool):
        raise bad("version", told.get("version"), f"this version of nemo-elastic reads {VERSION}")
    for name in fields:
        if name not in told:
            raise ElasticError("missing", name)
    members = [_record("members", member, ("name", "parameters")) for member in _list("members", told["members"], 2)]
    names = [member["name"] for member in members]
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise bad("members", names, "a name for each, none of them twice")
    counts = [integer("members.parameters", member["parameters"], 1, "a positive integer") for member in members]
    if sorted(set(counts)) != counts:
        raise bad("members.parameters", counts, "from the smallest to the largest")
    signals = [_record("signals", s, ("name", "mean", "spread")) for s in _list("signals", told["signals"], 1)]
    if [signal["name"] for signal in signals] != list(SIGNALS):
        raise bad("signals", [signal["name"] for signal in signals], f"{', '.join(SIGNALS)}, in this order")
    spreads = [number("signals.spread", s["spread"], 1e-12, MOST, "a positive number") for s in signals]
    climbs = [_numbers("climbs", climb, len(SIGNALS) + 1) for climb in _list("climbs", told["climbs"], 1)]
    if len(climbs) != len(names) - 1:
        raise bad("climbs", f"{len(climbs)} of them", f"{len(names) - 1}, one from each member to the next")
    prices = _numbers("prices", told["prices"], STEPS + 1)
    if sorted(prices, reverse=True) != list(prices):
        raise bad("prices", "rising ones", "none greater than the one before it")
    means = _numbers("signals.mean", [signal["mean"] for signal in signals], len(SIGNALS))
    return Calibration(tuple(names), tuple(counts), means, tuple(spreads), tuple(climbs), prices)


def _list(name: str, given: Any, least: int) -> list[Any]:
    if not isinstance(given, list) or len(given) < least:
        raise bad(name, given, f"a list of at least {least}")
    return given


def _record(name: str, given: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(given, dict) or set(given) != set(fields):
        raise bad(name, given, f"each has {', '.join(fields)}")
    return given


def _numbers(name: str, given: Any, count: int) -> tuple[float, ...]:
    if not isinstance(given, list) or len(given) != count:
        raise bad(name, given, f"a list of {count} numbers")
    return tuple(number(name, value, -MOST, MOST, f"a list of {count} numbers") for value in given)
