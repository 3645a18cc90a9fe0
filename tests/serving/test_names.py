# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Names of models: members, other names of the largest, pairs."""

from __future__ import annotations

import pytest

from nemo_elastic.core.manifest import CALIBRATION, Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime import load_family
from nemo_elastic.serving.calibration import fit, write_calibration
from nemo_elastic.serving.names import Choice, Names, family_names
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.runtime.talking import talking_family
from tests.serving.calibrated import NAMES as RISING
from tests.serving.calibrated import PARAMETERS, calibration_of, made

NAMES = Names(("12b", "9b", "6b"), ("family", "12b", "6b>12b", ""), ("/place/family",))


def test_what_is_listed():
    assert NAMES.listed == ("12b", "9b", "6b", "family", "9b>12b", "6b>12b", "6b>9b")
    assert Names(("only",)).listed == ("only",)


@pytest.mark.parametrize(
    ("written", "choice"),
    [
        ("6b", Choice("6b")),
        ("family", Choice("12b")),
        ("/place/family", Choice("12b")),
        (None, Choice("12b")),
        ("", Choice("12b")),
        ("6b>12b", Choice("6b", "12b")),
    ],
)
def test_what_is_read(written, choice):
    assert NAMES.read(written) == choice
    assert choice.then is None or choice.name == written


@pytest.mark.parametrize("written", ["7b", "12b>6b", "6b>6b", "6b>9b>12b", "family>12b", ["6b"], "auto"])
def test_what_is_no_model(written):
    with pytest.raises(ElasticError, match=r"^model: "):
        NAMES.read(written)


def test_extra_arguments():
    assert NAMES.from_extra(None) == Choice("12b")
    assert NAMES.from_extra({"other": 1, "member": "9b"}) == Choice("9b")
    assert NAMES.from_extra({"member": "6b", "then": "9b"}) == Choice("6b", "9b")


def test_a_folder_has_its_members(tmp_path):
    folder = talking_family(tmp_path)
    names = family_names(folder)
    assert names is not None
    assert names.members == ("12b", "9b", "6b") and names.aliases == ("family",)
    assert names.read(str(folder)) == Choice("12b")
    slice_checkpoint(folder, tmp_path / "6b", member="6b")
    assert family_names(tmp_path / "6b") is None and family_names("a/hub-id") is None


CALIBRATED = Names(("12b", "9b", "6b"), ("family", "auto"), (), fit(*made(), RISING, PARAMETERS), 0.4)


def test_a_calibrated_family_chooses_by_itself():
    assert CALIBRATED.listed == ("12b", "9b", "6b", "family", "auto", "9b>12b", "6b>12b", "6b>9b")
    assert CALIBRATED.read("auto") == Choice("6b", cost=0.4)
    assert CALIBRATED.read("auto").name == "auto"


@pytest.mark.parametrize(("extra", "cost"), [({"cost": 0}, 0), ({"cost": 0.75}, 0.75), ({"cost": None}, 0.4)])
def test_a_request_changes_the_cost(extra, cost):
    assert CALIBRATED.from_extra({"member": "auto", **extra}) == Choice("6b", cost=cost)
    assert CALIBRATED.with_cost(CALIBRATED.read("auto"), extra) == Choice("6b", cost=cost)


def test_a_cost_that_is_none_and_one_of_no_use():
    with pytest.raises(ElasticError, match=r"^cost: "):
        CALIBRATED.from_extra({"member": "auto", "cost": 1.1})
    with pytest.raises(ElasticError, match=r"^vllm_xargs.cost: "):
        CALIBRATED.with_cost(CALIBRATED.read("6b"), {"cost": 0.5})


def test_a_member_of_that_name_goes_first():
    names = Names(("auto", "small"), calibration=CALIBRATED.calibration)
    assert names.listed == ("auto", "small", "small>auto") and names.read("auto") == Choice("auto")


def test_extra_shapes_answer_alone():
    names = Names(("12b", "6b"), ("code", "family"), calibration=CALIBRATED.calibration, extras=("code", "prose"))
    assert names.listed == ("12b", "6b", "code", "prose", "family", "auto", "6b>12b")
    assert names.read("prose") == names.from_extra({"member": "prose"}) == Choice("prose")
    assert names.largest == "12b" and names.read("auto").member == "6b"
    with pytest.raises(ElasticError, match="one of 12b, 6b, code, prose, family, auto, or two members"):
        names.read("6b>code")
    with pytest.raises(ElasticError, match=r"^vllm_xargs.then: "):
        names.from_extra({"member": "6b", "then": "code"})
    assert Names(("12b",), calibration=CALIBRATED.calibration, extras=("auto",)).autos == ()


def test_a_folder_chooses_by_its_own_calibration_and_extra_shapes_leave_it(tmp_path):
    folder = talking_family(tmp_path)
    assert "auto" not in family_names(folder).listed
    own = calibration_of(load_family(folder))
    write_calibration(folder, own)
    names = family_names(folder, 0.6)
    assert names.read("auto").cost == 0.6 and names.calibration == own
    family = Family.load(folder)
    family.with_extra("task", family.members[-1].subnet).save(folder)
    assert family_names(folder).calibration == own and family_names(folder).extras == ("task",)
    (folder / CALIBRATION).write_text("{}")
    with pytest.raises(ElasticError, match=r"auto\.json"):
        family_names(folder)
