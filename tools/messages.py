# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every line that an `ElasticError` can say, read off the source.

What is only known when it is raised is `…` in it: `elastic.budgets: … is not allowed; each name once`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOLE = "…"
#: constructors of errors -> how their arguments become the line
RAISE = {"bad": "{0}: {1!r} is not allowed; {2}", "ElasticError": "{0}", "OtherRanking": "{0}"}


@dataclass(frozen=True)
class Message:
    """One line.

    Attributes:
        text: the line, with holes.
        place: file:line that raises it.
    """

    text: str
    place: str

    @property
    def says_something(self) -> bool:
        """Not only holes, nor a name before one: what is left has a word of its own."""
        left = self.text.replace("is not allowed;", "")
        return re.search(r"[a-z]{2}", left) is not None and re.fullmatch(rf"[a-z.]+:? ?{HOLE}", left) is None


@dataclass(frozen=True)
class _Scope:
    """What names stand for at a place: constants of the module, then what was assigned above in the function."""

    known: Mapping[str, ast.expr]
    function: ast.FunctionDef | None = None

    def text(self, node: ast.expr, depth: int = 3) -> str:
        """An expression as text; a hole for what is not written down."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(self.text(part, depth) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self.text(node.value, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.text(node.left, depth) + self.text(node.right, depth)
        if isinstance(node, ast.Name) and depth:
            value = self._assigned(node)
            if value is not None:
                return self.text(value, depth - 1)
        return HOLE

    def _assigned(self, name: ast.Name) -> ast.expr | None:
        value = self.known.get(name.id)
        for node in ast.walk(self.function) if self.function is not None else ():
            if isinstance(node, ast.Assign) and node.lineno < name.lineno and _target(node) == name.id:
                value = node.value
        return value

    def shown(self, node: ast.expr) -> str:
        """A value as `!r` shows it."""
        return repr(node.value) if isinstance(node, ast.Constant) else HOLE


def messages(folder: Path = ROOT / "nemo_elastic") -> list[Message]:
    """Every line that the package can say, in the order of its files.

    Lines that are holes alone, such as an error that is raised again behind the name of a file, are left out: what
    fills them is a line of its own. A function that only hands its arguments on to `bad` is read where it is called.
    """
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}
    raised = [(call, scope, path) for path, tree in trees.items() for call, scope in _calls(tree)]
    messages, handed_on = [], {}
    for call, scope, path in raised:
        form = RAISE.get(_name(call))
        if form is None or path.name == "errors.py":
            continue
        message = Message(_line(form, call, scope), f"{path.relative_to(folder.parent)}:{call.lineno}")
        if message.says_something:
            messages.append(message)
        elif form == RAISE["bad"] and scope.function is not None:
            handed_on[scope.function.name] = (scope.function, call)
    for call, scope, path in raised:
        function, inner = handed_on.get(_name(call), (None, None))
        if function is not None and inner is not None and scope.function is not function:
            given = dict(zip((a.arg for a in function.args.args), call.args, strict=False))
            given |= {k.arg: k.value for k in call.keywords if k.arg}
            arguments: list[ast.expr] = [given.get(getattr(a, "id", "")) or a for a in inner.args]
            place = ast.Call(inner.func, arguments, [])
            message = Message(_line(RAISE["bad"], place, scope), f"{path.relative_to(folder.parent)}:{call.lineno}")
            if message.says_something:
                messages.append(message)
    return [replace(m, text=re.sub(f"{HOLE}+", HOLE, " ".join(m.text.split()))) for m in messages]


def _line(form: str, call: ast.Call, scope: _Scope) -> str:
    if form == RAISE["ElasticError"]:
        said, *at = (scope.text(argument) for argument in call.args)
        return ": ".join((*at, said))
    field, value, allowed = call.args
    return f"{scope.text(field)}: {scope.shown(value)} is not allowed; {scope.text(allowed)}"


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _target(node: ast.Assign) -> str:
    return getattr(node.targets[0], "id", "")


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, _Scope]]:
    known = {_target(node): node.value for node in tree.body if isinstance(node, ast.Assign)}

    def walk(node: ast.AST, scope: _Scope) -> Iterator[tuple[ast.Call, _Scope]]:
        if isinstance(node, ast.FunctionDef):
            scope = replace(scope, function=node)
        if isinstance(node, ast.Call):
            yield node, scope
        for child in ast.iter_child_nodes(node):
            yield from walk(child, scope)

    yield from walk(tree, _Scope(known))


if __name__ == "__main__":
    for message in messages():
        print(f"{message.place}: {message.text}")
