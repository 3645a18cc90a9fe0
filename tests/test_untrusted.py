# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files from elsewhere are data: nothing in the package runs what they say, but for the places named here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

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
    ("hosts/bridge/autobridge.py", "trust_remote_code"): "what the caller says, and false otherwise",
    ("hosts/bridge/cli.py", "importlib.import_module"): "the recipe that the user names on the command line",
    ("profile/engines.py", "subprocess"): "our own worker, by the python that the command line names",
    ("rehearsal/transformers.py", "subprocess"): "our own script, by the python that the environment names",
    (
        "hosts/nemo/cli/entry.py",
        "pydoc.locate",
    ): "a whole recipe that --to-yaml wrote: it names code as NeMo-Run's files do",
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
