# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files from elsewhere are data: nothing in the package runs what they say, but for the places named here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nemo_elastic"
#: names that run what a file says, as they are called or imported
UNSAFE = {
    "eval", "exec", "compile", "__import__",
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",
    "torch.load", "numpy.load", "np.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "pydoc.locate", "importlib.import_module", "subprocess", "os.system", "os.popen",
}  # fmt: skip
KEYWORDS = {"trust_remote_code", "allow_pickle"}
#: file, name -> why it is no way in. Whatever is not here fails the test; what is here and unused does, too.
ALLOWED = {
    ("__init__.py", "importlib.import_module"): "our own modules, from the table of public names",
    ("cli/app.py", "importlib.import_module"): "a command's own module, from the table of commands",
    (
        "data/packing.py",
        "allow_pickle",
    ): "it writes rows as NeMo reads them; nothing of ours does",
    ("doctor.py", "importlib.import_module"): "kernels by their fixed names, to see whether they load",
    (
        "formats/megatron/context_files.py",
        "importlib.import_module",
    ): "the two modules of NeMo's and our model classes, for their defaults",
    ("formats/megatron/metadata.py", "pickle"): "every name in it stands for a record without code",
    ("formats/megatron/torch_files.py", "torch.load"): "as values alone (weights_only)",
    ("hosts/bridge/cli.py", "importlib.import_module"): "the recipe that the user names on the command line",
    ("profile/engines.py", "subprocess"): "our own worker, by the python that the command line names",
    ("rehearsal/transformers.py", "subprocess"): "our own script, by the python that the environment names",
    (
        "hosts/nemo/cli/entry.py",
        "pydoc.locate",
    ): "a whole recipe that --to-yaml wrote: it names code as NeMo-Run's files do",
}

#: what opens a file, as it is called in whole or by its last name
OPENERS = {
    "open", "read_text", "read_bytes", "memmap", "fromfile", "safe_open", "load_file", "from_file", "from_pretrained",
    "ZipFile", "is_zipfile", "mmap", "copy2", "copyfile", "copytree",
}  # fmt: skip
#: names that say the same and are others: ours, which open files by the one function
OURS = {"DataFolder.open", "ChatFolder.open", "read_text", "read_bytes", "shutil.copy"}
#: file, call -> why it opens no file of a folder from elsewhere other than by `io.read.open_regular`
OPENED: dict[tuple[str, str], str] = {
    ("cli/aside.py", "open"): "the screen, and its own output",
    ("cli/aside.py", "path.open"): "its own output",
    ("data/sources.py", "tokenize.open"): "the standard library",
    ("data/indexed.py", "open"): "its own output",
    ("data/packing.py", "open"): "its own output",
    ("data/prepare.py", "open"): "its own output",
    ("data/indexed.py", "np.memmap"): "what that function opened",
    ("demo/walk.py", "read_text"): "its own output",
    ("extras.py", "read_text"): "what pip wrote when it installed this package",
    ("formats/hf/reading.py", "mmap.mmap"): "what that function opened",
    ("formats/hf/reading.py", "safe_open"): "what that function has opened just before, for a look at its header",
    ("formats/hf/writing.py", "path.open"): "its own output",
    ("formats/hf/writing.py", "read_bytes"): "of the package, and its own output",
    ("hosts/common/checkpoints.py", "zipfile.is_zipfile"): "what that function opened",
    ("io/read.py", "OmegaConf.load"): "a text that was read",
    ("io/read.py", "os.open"): "the one function",
    ("io/write.py", "open"): "its own output",
    ("io/write.py", "os.open"): "its own locks and folders",
    ("profile/engines.py", "open"): "its own output",
    ("profile/engine_worker.py", "read_text"): "the system's account of its processors",
    ("profile/engine_worker.py", "AutoConfig.from_pretrained"): "its own output",
    ("rehearsal/findings.py", "read_text"): "its own output",
    ("rehearsal/report.py", "log.read_text"): "its own output",
    ("report/page.py", "path.read_bytes"): "its own output",
    ("report/page.py", "read_text"): "the page's template, of the package",
    ("rehearsal/watch.py", "shutil.copytree"): "its own run's checkpoint",
    ("runtime/conversation.py", "statm.read_text"): "the system's account of this process",
    ("train/metrics.py", "file.open"): "its own output",
}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(text: str) -> Iterator[str]:
    """Names of `UNSAFE` that source code imports or calls, and keywords of `KEYWORDS` that it passes as true."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in UNSAFE or a.name.partition(".")[0] in UNSAFE)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module.partition(".")[0], *(f"{node.module}.{a.name}" for a in node.names)]
            yield from (n for n in names if n in UNSAFE)
        elif isinstance(node, ast.Call):
            name = _dotted(node.func)
            if name in UNSAFE:
                yield name
            for word in node.keywords:
                if word.arg in KEYWORDS and not (isinstance(word.value, ast.Constant) and word.value.value is False):
                    yield word.arg


def test_nothing_runs_what_a_file_says() -> None:
    files = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name in unsafe(path.read_text(encoding="utf-8"))
    }
    assert files - set(ALLOWED) == set(), "read it as data, or say in ALLOWED why nobody else can reach it"
    assert set(ALLOWED) - files == set(), "nothing needs this any more"


def openers(text: str) -> Iterator[str]:
    """Calls in source code that open a file by its path."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = _dotted(node.func)
            last = node.func.attr if isinstance(node.func, ast.Attribute) else name
            if name not in OURS and (last in OPENERS or name == "OmegaConf.load"):
                yield name.lstrip(".")


def test_one_function_opens_the_files_of_others() -> None:
    """It waits for no pipe, see `io.read.open_regular`."""
    files = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name in openers(path.read_text(encoding="utf-8"))
    }
    assert files - set(OPENED) == set(), "use io.read, or say in OPENED why it is nobody else's"
    assert set(OPENED) - files == set(), "nothing needs this any more"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("open(path)", "open"),
        ("(folder / 'a').read_text()", "read_text"),
        ("path.open('rb')", "path.open"),
        ("np.memmap(path)", "np.memmap"),
        ("AutoTokenizer.from_pretrained(folder)", "AutoTokenizer.from_pretrained"),
    ],
)
def test_what_opens_a_file_would_be_found(text: str, name: str) -> None:
    assert list(openers(text)) == [name]
    assert list(openers("read_text(path)\nDataFolder.open(path)\nopen_regular(path)")) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("eval(open(path).read())", "eval"),
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import torch\ntorch.load(path, weights_only=False)", "torch.load"),
        ("from torch import load", "torch.load"),
        ("import yaml\nyaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", "trust_remote_code"),
        ("np.load(path, allow_pickle=flag)", "allow_pickle"),
    ],
)
def test_what_would_be_found(text: str, name: str) -> None:
    assert name in set(unsafe(text))


def test_what_is_no_danger() -> None:
    assert list(unsafe("model.eval()\nre.compile('x')\nyaml.safe_load(text)\nf(path, trust_remote_code=False)")) == []
