# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Under which licence a model is and what it was made of, as model cards say it: from a parent to all that is cut.

It stands in the front matter of a folder's README.md, the YAML that the hub reads. A card is written for people, by
anybody: what is none, or has not the form of a licence or an id, is left out, never quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.hub import check_repo, is_repo, repo_of
from nemo_elastic.io.read import plain_yaml, read_text

__all__ = ["CARD", "Lineage", "check_license", "lineage_of"]

CARD = "README.md"
#: ids of the hub's list are so; `other` stands for all that are not in it, and has a name and a link
_LICENSE = re.compile("[a-z0-9][a-z0-9.+-]{0,63}")
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9 ._+-]{0,99}")
_LINK = re.compile(r"https://[!-~]{1,500}|LICENSE(?:\.md|\.txt)?")
#: a merge has several; a card of thousands is none
_MOST = 8


@dataclass(frozen=True)
class Lineage:
    """What a card says of where a model comes from.

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
        out = [f"{key}: {json.dumps(value)}" for key in _KEYS if (value := getattr(self, key)) is not None]
        if self.base_model:
            out += ["base_model:", *(f"  - {json.dumps(model)}" for model in self.base_model)]
        return out

    def over(self, license: str | None, base_model: str | None) -> Lineage:
        """The same with what the user says instead.

        Raises:
            ElasticError: No id of a licence or of a model.
        """
        changed = self
        if license is not None:
            changed = Lineage(check_license("license", license), base_model=changed.base_model)
        if base_model is not None:
            changed = replace(changed, base_model=(check_repo("base_model", base_model),))
        return changed


_KEYS = ("license", "license_name", "license_link")


def check_license(field: str, value: str) -> str:
    """Give the id of a licence.

    Raises:
        ElasticError: It has not that form.
    """
    if not _LICENSE.fullmatch(value):
        raise bad(
            field, value, "an id of the hub's, in lower-case letters, digits, dots and dashes, such as apache-2.0"
        )
    return value


def lineage_of(folder: Path | None, config: Mapping[str, Any] | None = None) -> Lineage:
    """What a folder says of itself, for what is made of it.

    A folder of ours says what it was made of. Of another one it is the model itself, as far as its id is known: from
    its place in the hub's cache; else what its card names, or its config.

    Args:
        folder: The folder with the card; None where there is none.
        config: Its `config.json`.
    """
    card = _front_matter(folder / CARD) if folder is not None else {}
    config = config or {}
    license = next((x for x in (card.get("license"), config.get("license")) if _is(_LICENSE, x)), None)
    name, link = card.get("license_name"), card.get("license_link")
    named = license is not None and license == card.get("license")
    made_of = card.get("base_model")
    listed = [made_of] if isinstance(made_of, str) else made_of if isinstance(made_of, list) else []
    base = tuple(model for model in listed[:_MOST] if is_repo(model))
    ours = folder is not None and any((folder / file).exists() for file in (FAMILY_FILE, MEMBER_FILE))
    if not ours:
        own = repo_of(folder) if folder is not None else None
        path = config.get("_name_or_path")
        base = (own,) if own else base or ((path,) if is_repo(path) else ())
    return Lineage(
        license,
        name if named and _is(_NAME, name) else None,
        link if named and _is(_LINK, link) else None,
        base,
    )


def _is(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _front_matter(path: Path) -> Mapping[str, Any]:
    """The YAML at the head of a card; nothing where there is none that can be read."""
    import yaml

    try:
        text = read_text(path, encoding="utf-8-sig").replace("\r\n", "\n")
        head, end, _ = text.removeprefix("---\n").partition("\n---")
        data = plain_yaml(head) if end and text.startswith("---\n") else None
    except (ElasticError, OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}
