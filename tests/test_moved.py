# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Old names of modules: what a user has written against the last version imports, and learns the new name."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from nemo_elastic.moved import MOVED


def forget() -> None:
    for name in MOVED:
        sys.modules.pop(name, None)


@pytest.mark.nemo
def test_old_names_tell_the_new_ones_and_have_their_content() -> None:
    for old, homes in MOVED.items():
        forget()
        with pytest.warns(DeprecationWarning, match=old.replace(".", r"\.")):
            module = importlib.import_module(old)
        now = {}
        for new in map(importlib.import_module, reversed(homes)):
            now |= {name: getattr(new, name) for name in getattr(new, "__all__", vars(new)) if name[0] != "_"}
        assert [name for name, value in now.items() if getattr(module, name) is not value] == [], old
        with pytest.raises(AttributeError, match="no_such_name"):
            module.no_such_name  # noqa: B018


def test_names_of_one_old_module_in_several_new_ones() -> None:
    forget()
    with pytest.warns(DeprecationWarning, match="formats.folders"):
        from nemo_elastic.export.hf import MEMBER_FILE, Source, open_source  # pyright: ignore
    assert MEMBER_FILE == "elastic_member.json"
    assert (Source.__module__, open_source.__module__) == (
        "nemo_elastic.formats.source",
        "nemo_elastic.formats.folders",
    )
    with pytest.raises(ImportError, match="no_such_name"):
        from nemo_elastic.export.hf import no_such_name  # noqa: F401  # pyright: ignore


def test_a_module_that_never_was_is_missing_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"nemo_elastic\.never"):
        importlib.import_module("nemo_elastic.never")


def test_the_package_itself_imports_no_old_name() -> None:
    code = "import nemo_elastic.cli, nemo_elastic.slicing.slicer, nemo_elastic.runtime, sys; "
    code += "from nemo_elastic.moved import MOVED; print(sorted(MOVED.keys() & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning:nemo_elastic", "-c", code],
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
