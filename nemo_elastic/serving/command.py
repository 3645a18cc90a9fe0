# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The command that becomes vLLM's server: its arguments and its environment. The plugin checks them again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.folders import read_shapes

from .arguments import GATE, Settings, open_family
from .plugin import check_version

GROUP, PLUGIN = "vllm.general_plugins", "nemo_elastic"
#: flags of vLLM that have an option of ours, which is given before `--`
OURS = ("--model", "--model-tag", "--host", "--port")
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Server:
    """A server that is to be started.

    Attributes:
        folder: a family, a member or any plain Nemotron-H folder.
        host, port: where it listens.
        settings: for the plugin.
        flags: more flags, for vLLM.
    """

    folder: Path
    host: str = LOCAL[0]
    port: int = 8000
    settings: Settings = field(default_factory=Settings)
    flags: Sequence[str] = ()

    def check(self) -> None:
        """Run the plugin's checks before vLLM is loaded, and checks of arguments that the plugin does not see."""
        read_shapes(self.folder)
        open_family(self.folder, self.settings.within(None))
        if not self.host or self.host.startswith("-"):
            raise bad("--host", self.host, "an address of this machine, such as 127.0.0.1 or 0.0.0.0")
        if self.flags and not self.flags[0].startswith("-"):
            raise bad("flags", self.flags[0], "flags of vLLM after --, each beginning with a dash")
        for flag in self.flags:
            name = flag.partition("=")[0].replace("_", "-")
            if name in OURS:
                raise bad(name, flag, "give this option before --, to nemo-elastic")
            if name == "--api-key":
                raise bad(name, "…", "set VLLM_API_KEY instead: other users of the machine read arguments")
            if name.startswith("--additional-config") and self.settings != Settings():
                raise bad(name, flag, "leave it out: --auto sets it")

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach it without a key."""
        return self.host not in LOCAL and not os.environ.get("VLLM_API_KEY")

    def argv(self, cli: bool) -> list[str]:
        """The arguments, with the interpreter; `cli` says whether `vllm serve` works: it asks for a package `vllm`."""
        folder = str(self.folder.absolute())
        start = ["vllm.entrypoints.cli.main", "serve", folder] if cli else [_SERVER, f"--model={folder}"]
        options = [f"--host={self.host}", f"--port={self.port}"]
        if self.settings != Settings():
            options.append(f"--additional-config={json.dumps(self.settings.within(None))}")
        # last in vLLM's list, which makes it outermost; a family's plugin adds it itself
        return [sys.executable, "-m", *start, *options, *self.flags, f"--middleware={GATE}"]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment of the server."""
        return {"VLLM_NO_USAGE_STATS": "1", **given}


_SERVER = "vllm.entrypoints.launchers.api_server.entry"


def check_installed(plugins: str | None) -> bool:
    """Check that vLLM is installed, serves families and loads our plugin; returns whether its package is named `vllm`.

    `plugins` is `VLLM_PLUGINS`: the plugins that vLLM loads, None for all.
    """
    if find_spec("vllm") is None:
        raise ModuleNotFoundError("No module named 'vllm'", name="vllm")
    found = check_version()
    if plugins is not None and PLUGIN not in plugins.split(","):
        raise bad("VLLM_PLUGINS", plugins, f"a list with {PLUGIN}, or no value")
    if PLUGIN not in {point.name for point in entry_points(group=GROUP)}:
        raise ElasticError("vLLM: nemo-elastic is not installed in vLLM's environment; pip install it there")
    return "vllm" in found
