# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""English that is there without a download: descriptions, licences and documentation of the installed packages.

Whole packages are held out, and a paragraph that several have counts for the first of them alone. What there is
depends on what is installed.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch
from tokenizers import Tokenizer

#: tokens of a row, and rows of a package at most
LENGTH, MOST = 512, 40
#: of so many packages one is held out
ONE_IN = 4
_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
_CODE = re.compile("http|:param|```|>>>")


def prose(text: str) -> Iterator[str]:
    """Paragraphs that are mostly English sentences."""
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        letters = sum(c.isalpha() or c == " " for c in words)
        if len(words) >= 160 and letters > 0.9 * len(words) and ". " in words and not _CODE.search(words):
            yield words


def packages(site: Path) -> Iterator[tuple[str, list[Path]]]:
    """Names of installed packages, each with its description, licences and modules."""
    for info in sorted(site.glob("*.dist-info"), key=lambda path: path.name.lower()):
        name = info.name.partition("-")[0].lower()
        files = sorted(p for p in info.rglob("*") if re.match("METADATA|LICEN|NOTICE|COPYING", p.name) and p.is_file())
        top = site / name
        yield name, files + sorted(p for end in ("md", "rst", "py") for p in top.rglob(f"*.{end}"))


def rows(tokenizer: Tokenizer) -> dict[bool, torch.Tensor]:
    """Rows of tokens [n, LENGTH] in an order of chance; True: of packages that are held out."""
    seen: set[bytes] = set()
    parts: dict[bool, list[list[int]]] = {False: [], True: []}
    for name, files in packages(Path(sysconfig.get_paths()["purelib"])):
        text, limit = [], 5 * LENGTH * MOST  # letters: some more than that many tokens
        for file in files:
            if limit <= 0:
                break
            raw = file.read_text(encoding="utf-8", errors="ignore")
            for words in prose("\n\n".join(_DOCSTRING.findall(raw)) if file.suffix == ".py" else raw):
                digest = sha256(words.lower().encode()).digest()
                if digest not in seen:
                    seen.add(digest)
                    text.append(words)
                    limit -= len(words)
        ids = tokenizer.encode("\n\n".join(text)).ids
        held_out = sha256(name.encode()).digest()[0] % ONE_IN == 0
        parts[held_out] += [ids[at : at + LENGTH] for at in range(0, len(ids) - LENGTH + 1, LENGTH)][:MOST]
    random = torch.Generator().manual_seed(0)
    return {key: torch.tensor(part)[torch.randperm(len(part), generator=random)] for key, part in parts.items()}
