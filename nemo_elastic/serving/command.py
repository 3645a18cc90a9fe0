# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The command that becomes vLLM's server: its arguments and what it needs to know of the environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.tokenizer import has_template
from nemo_elastic.serving.calibration import check_cost

from .arguments import GATE, Settings, check_layers
from .names import family_names
from .plugin import check_version

GROUP, PLUGIN = "vllm.general_plugins", "nemo_elastic"
#: flags of vLLM's that are ours, and given before `--`
OURS = ("--model", "--model-tag", "--host", "--port", "--api-key")
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Server:
    """A server that is to be started.

    Attributes:
        folder: a family, a member or any plain Nemotron-H folder.
        host, port: where it listens.
        api_key: what clients must send, None for nothing.
        end_of_thinking: text that ends the thinking of a pair, None for `</think>`.
        auto: the cost setting of the model `auto` where a request has none, None for the usual.
        max_body: most bytes of a request's body, None for the usual.
        flags: more flags, for vLLM.
    """

    folder: Path
    host: str = LOCAL[0]
    port: int = 8000
    api_key: str | None = None
    end_of_thinking: str | None = None
    auto: float | None = None
    max_body: int | None = None
    flags: Sequence[str] = ()

    def check(self) -> None:
        """Check what can be checked before vLLM is loaded.

        Raises:
            ElasticError: no such folder, or a value that is not allowed.
        """
        shapes = read_shapes(self.folder)
        check_layers(self.folder)
        if not self.host or self.host.startswith("-"):
            raise bad("--host", self.host, "an address of this machine, such as 127.0.0.1 or 0.0.0.0")
        if self.api_key is not None and not (
            self.api_key.isascii() and self.api_key.isprintable() and self.api_key.strip()
        ):
            raise bad("--api-key", "…", "printable ASCII, and not empty")
        if self.flags and not self.flags[0].startswith("-"):
            raise bad("flags", self.flags[0], "flags of vLLM behind --, each beginning with a dash")
        for flag in self.flags:
            name = flag.partition("=")[0].replace("_", "-")
            if name in OURS:
                raise bad(name, flag, "give it before --, where nemo-elastic reads it")
            if name.startswith("--additional-config") and self._settings != Settings():
                given = {"--end-of-thinking": self.end_of_thinking, "--auto": self.auto}
                ours = next((option for option, value in given.items() if value is not None), "--max-body")
                raise bad(name, flag, f"not with {ours}, which is written there")
        if self.auto is not None:
            check_cost(self.auto, "--auto")
            names = family_names(self.folder)
            if names is None or names.calibration is None:
                raise bad("--auto", self.auto, f"first nemo-elastic calibrate {self.folder} --data DIR")
        self._check_text(shapes.companions)

    @staticmethod
    def _check_text(folder: Path) -> None:
        """Open the tokenizer and the chat template, whose damage vLLM would report late and in many lines."""
        from nemo_elastic.formats.tokenizer import FamilyTokenizer

        if (folder / "tokenizer.json").is_file():
            FamilyTokenizer.read(folder)

    @property
    def _settings(self) -> Settings:
        return Settings(self.end_of_thinking, auto=self.auto, max_body=self.max_body)

    @property
    def is_open(self) -> bool:
        """Whether others than this machine can reach it without a key."""
        return self.host not in LOCAL and self.api_key is None and not os.environ.get("VLLM_API_KEY")

    @property
    def takes_messages(self) -> bool:
        """Whether there is a chat template, the folder's own or one that a flag names."""
        flags = [flag.partition("=")[0].replace("_", "-") for flag in self.flags]
        return "--chat-template" in flags or "--tokenizer" in flags or has_template(self.folder)

    def argv(self, cli: bool) -> list[str]:
        """The arguments, with the interpreter.

        Args:
            cli: whether `vllm serve` works here: it asks for a package of the name `vllm`.
        """
        folder = str(self.folder.absolute())
        start = ["vllm.entrypoints.cli.main", "serve", folder] if cli else [_SERVER, f"--model={folder}"]
        own = [f"--host={self.host}", f"--port={self.port}"]
        if self._settings != Settings():
            own.append(f"--additional-config={json.dumps(self._settings.within(None))}")
        # behind theirs, so that it is the first that a request meets; a family's plugin sees to it itself
        return [sys.executable, "-m", *start, *own, *self.flags, f"--middleware={GATE}"]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment of the server: the key stands there, where other users of the machine cannot read it."""
        own = {"VLLM_NO_USAGE_STATS": "1", **given}
        return own if self.api_key is None else {**own, "VLLM_API_KEY": self.api_key}


_SERVER = "vllm.entrypoints.launchers.api_server.entry"


def check_installed(plugins: str | None) -> bool:
    """Check that vLLM is here, of a version that serves families, and loads our plugin.

    Args:
        plugins: `VLLM_PLUGINS`: the plugins that vLLM loads, None for all.

    Returns:
        Whether it is installed as `vllm`.

    Raises:
        ModuleNotFoundError: vLLM is not installed.
        ElasticError: its version is not one that serves families, or it would not load the plugin.
    """
    if find_spec("vllm") is None:
        raise ModuleNotFoundError("No module named 'vllm'", name="vllm")
    found = check_version()
    if plugins is not None and PLUGIN not in plugins.split(","):
        raise bad("VLLM_PLUGINS", plugins, f"it must have {PLUGIN}, or not be set")
    if PLUGIN not in {point.name for point in entry_points(group=GROUP)}:
        raise ElasticError(
            "vLLM: nemo-elastic is not installed beside it, so that vLLM does not find it: pip install it there"
        )
    return "vllm" in found
