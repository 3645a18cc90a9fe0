# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Licence and base model of a model card: from a parent's to those of all that is cut from it.

Both stand in the front matter of a folder's README.md, the YAML that the hub reads. Anybody may have written a card:
values without the form of a licence or an id are left out, never quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.errors import bad
from nemo_elastic.formats.checksums import CHECKSUMS_FILE
from nemo_elastic.formats.folders import check_repo, is_repo, repo_of
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.io.read import json_object, plain_yaml, read_text

__all__ = ["CARD", "MTP_TRAINED", "PUBLISHED", "Lineage", "is_ours", "lineage_of", "provenance_in"]

CARD = "README.md"
#: in a manifest's provenance: the weights were published by others, with their members
PUBLISHED = "published"
#: in a member's provenance: how its layers that predict further tokens (MTP) were trained
MTP_TRAINED = "mtp_trained"
#: a licence that is not in the hub's list has the id `other`, a name and a link
_FORMS = {
    "license": re.compile("[a-z0-9][a-z0-9.+-]{0,63}"),
    "license_name": re.compile("[A-Za-z0-9][A-Za-z0-9 ._+-]{0,99}"),
    "license_link": re.compile(r"https://[!-~]{1,500}|LICENSE(?:\.md|\.txt)?"),
}
#: a merge has several base models
_MOST = 8


@dataclass(frozen=True)
class Lineage:
    """Licence and base model in the form of a card.

    Attributes:
        license: id of the licence on the hub.
        license_name, license_link: of one that has no id there.
        base_model: ids of the models that it was made of.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Its lines of a card's front matter. Strings of JSON are strings of YAML, whatever is in them."""
        out = [f"{key}: {json.dumps(value)}" for key in _FORMS if (value := getattr(self, key)) is not None]
        if self.base_model:
            out += ["base_model:", *(f"  - {json.dumps(model)}" for model in self.base_model)]
        return out

    def over(self, license: str | None, base_model: str | None) -> Lineage:
        """The same with the user's licence or base model instead."""
        base = self.base_model if base_model is None else (check_repo("base_model", base_model),)
        if license is None:
            return replace(self, base_model=base)
        if not _FORMS["license"].fullmatch(license):
            allowed = "an id of the hub's, in lower-case letters, digits, dots and dashes, such as apache-2.0"
            raise bad("license", license, allowed)
        return Lineage(license, base_model=base)


def is_ours(folder: Path) -> bool:
    """Whether nemo-elastic wrote a folder, and not only `elastic.json` for published weights."""
    if (folder / MEMBER_FILE).is_file() or not (folder / FAMILY_FILE).is_file():
        return (folder / MEMBER_FILE).is_file()
    return (folder / CHECKSUMS_FILE).is_file() or PUBLISHED not in provenance_in(folder / FAMILY_FILE)


def provenance_in(manifest: Path) -> dict[str, Any]:
    """A manifest's provenance; empty without one."""
    provenance = json_object(manifest).get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def lineage_of(folder: Path | None, config: Mapping[str, Any] | None = None) -> Lineage:
    """Licence and base model for a model that is made from a folder.

    A folder of ours names its base model. Another folder is the base model itself, if the hub's cache tells its id;
    else its card or its config names one.
    """
    card = _front_matter(folder / CARD) if folder is not None else {}
    config = config or {}
    licence = _licence(card) or _licence({"license": config.get("license")})
    listed = card.get("base_model")
    base = tuple(model for model in (listed if isinstance(listed, list) else [listed])[:_MOST] if is_repo(model))
    if folder is None or not is_ours(folder):
        repo, path = None if folder is None else repo_of(folder), config.get("_name_or_path")
        base = (repo,) if repo else base or ((path,) if is_repo(path) else ())
    return Lineage(**licence, base_model=base)


def _licence(given: Mapping[str, Any]) -> dict[str, str]:
    """Id, name and link of a licence; nothing without an id."""
    known = {key: given.get(key) for key in _FORMS}
    out = {key: value for key, value in known.items() if isinstance(value, str) and _FORMS[key].fullmatch(value)}
    return out if "license" in out else {}


def _front_matter(path: Path) -> Mapping[str, Any]:
    """The YAML at the head of a card; empty without a readable one."""
    try:
        text = read_text(path, encoding="utf-8-sig").replace("\r\n", "\n")
        head, end, _ = text.removeprefix("---\n").partition("\n---")
        data = plain_yaml(head) if end and text.startswith("---\n") else None
    except (OSError, ValueError, RecursionError):  # ElasticError is a ValueError
        return {}
    return data if isinstance(data, dict) else {}
