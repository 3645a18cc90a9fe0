# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic quantize`, `slice --requantize`, and what `plan` says of widths that tear blocks."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest

from nemo_elastic.cli import main
from nemo_elastic.formats.folders import open_source


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code of a command of ours, and what it printed."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as done:
            code = int(done.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of fewer tokens than the small families have."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_text("".join(f"{i} and {7 * i} make {8 * i}. " for i in range(1500)))
    code, _, err = call("data", str(folder / "a.txt"), "--vocab", "300", "--out", str(folder / "data"))
    assert code == 0, err
    return folder / "data"


def input_scales(folder: Path) -> int:
    return sum(stored.activations for stored in open_source(folder).quantized.values())


def test_a_family_and_its_members(dense: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "low"
    options = ("--to", "nvfp4", "--data", str(text), "--samples", "2", "--seq-length", "16")
    code, said, err = call("quantize", str(dense), *options, "--out", str(out), "--json")
    assert code == 0, err
    record = json.loads(said)
    assert (record["to"], record["layout"], record["torn"]) == ("nvfp4", "modelopt", {})
    sizes = [sum(raw.nbytes for raw in open_source(folder).stored.values()) for folder in (dense, out)]
    assert [record["bytes_before"], record["bytes"]] == sizes
    assert input_scales(out) == record["weights"] > 0
    code, said, err = call("slice", str(out), "--budget", "small", "--out", str(tmp_path / "small"))
    assert code == 0 and "requantized" not in said, err
    assert input_scales(tmp_path / "small") == record["weights"]  # the layer that it drops has none
    assert call("verify", str(tmp_path / "small"), "--parent", str(out))[0] == 0


def test_weights_alone_need_no_data(dense: Path, tmp_path: Path) -> None:
    for to, layout in (("w4a16", "modelopt"), ("fp8", "compressed-tensors")):
        code, said, err = call("quantize", str(dense), "--to", to, "--layout", layout, "--out", str(tmp_path / to))
        assert code == 0 and f"weights in {to}" in said, err
        assert input_scales(tmp_path / to) == 0
    config = json.loads((tmp_path / "w4a16" / "config.json").read_text())["quantization_config"]
    assert config["quant_algo"] == "W4A16_NVFP4"


def test_a_torn_member_is_named(torn: Path, tmp_path: Path) -> None:
    code, said, err = call("quantize", str(torn), "--to", "w4a16", "--out", str(tmp_path / "low"))
    assert code == 0 and "torn cuts blocks of mlp.down: slice it with --requantize" in said, err
    code, _, err = call("slice", str(tmp_path / "low"), "--budget", "torn", "--out", str(tmp_path / "cut"))
    assert code == 2 and "--requantize computes it anew" in err and not (tmp_path / "cut").exists()
    command = ("slice", str(tmp_path / "low"), "--budget", "torn", "--requantize", "--out", str(tmp_path / "cut"))
    code, said, err = call(*command)
    assert code == 0 and "codes computed anew change those weights by" in said, err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "int4"), "--to: 'int4' is not allowed; one of nvfp4, fp8, w4a16"),
        (("--to", "fp8", "--layout", "gguf"), "--layout: 'gguf' is not allowed; one of modelopt, compressed-tensors"),
        (("--to", "w4a16", "--keep", "mamba.norm"), "--keep: 'mamba.norm' is not allowed; some of mlp.up, mlp.down"),
        (("--to", "nvfp4"), "--data: None is not allowed; text or conversations, on which scales of activations are "
         "found; or --to w4a16"),
        (("--to", "fp8"), "or --layout compressed-tensors, which scales each token as it comes"),
        (("--to", "w4a16", "--data", "text"), "--data: 'text' is not allowed; none: w4a16 leaves activations as"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(dense: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    code, _, err = call("quantize", str(dense), *options, "--out", str(tmp_path / "out"))
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_plan_names_widths_that_tear_blocks(tmp_path: Path) -> None:
    for block, parent, said in (("9b", "nemotron-nano-9b-v2", True), ("12b", "nemotron-nano-12b-v2", False)):
        code, _, err = call("plan", "--config", f"conf/elastic_{block}.yaml", "--parent", parent)
        line = "elastic.axes.ffn: 13440, 10752, 8960 cut mlp.down inside blocks of NVFP4"
        assert code == 0 and (line in err) == said
