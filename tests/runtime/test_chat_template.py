# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: rendered as they should be, and harmless whoever wrote them."""

from __future__ import annotations

import re
import resource

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime.chat_template import ChatTemplate
from tests.runtime.talking import MESSAGES, TEMPLATE

USER = [{"role": "user", "content": "Hi"}]


def render(text: str, messages=USER, **special: str) -> str:
    return ChatTemplate(text, special, "folder/chat_template.jinja").render(messages)


def test_a_conversation_is_rendered():
    template = ChatTemplate(TEMPLATE, {"bos_token": "<s>"}, "here")
    assert template.render(MESSAGES) == ("<s><system>\nBe brief.\n<user>\ndef f(x): naïve 日本語\n<assistant>\n")
    assert template.render(MESSAGES, add_generation_prompt=False).endswith("日本語")
    assert template.render(USER) == "<s><user>\nHi\n<assistant>\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "<é>"}]'),  # as it is, not escaped for HTML
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", ""),
        ("{% for m in messages %}{{ loop.index }}/{{ loop.length }}{% endfor %}", "1/1"),
        ("{% for k, v in messages[0].items() %}{{ k }};{% endfor %}", "role;content;"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "<é>"),
        ("{% for m in nothing %}x{% else %}none{% endfor %}", "none"),
        ("{{ tools is none }} {{ documents is none }} {{ bos_token }}|{{ eos_token }}", "True True |</s>"),
        (
            "{% if tools %}no{% endif %}  {% set x = 3 * 2 ** 5 %}{{ x }}{{ 'ab' * 2 }}",
            "  96abab",
        ),
        ("{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "3210"),
        ("{{ messages[0]['content'].split('é')[0] }}", "<"),
    ],
)
def test_what_templates_use(text, expected):
    assert render(text, [{"role": "user", "content": "<é>"}], eos_token="</s>") == expected


def test_what_renders_is_told_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("nemo_elastic.extras._has", lambda package: package != "jinja2")
    with pytest.raises(ModuleNotFoundError, match="No module named 'jinja2'"):
        render("x")


def test_the_date_is_there():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ raise_exception.__globals__.time }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe"),
        ("{{ (messages | attr('__class__')) }}{{ (messages | attr('__class__')).mro() }}", "unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(messages) }}{{ messages.append(1) }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception('no\x1b[31m such\nrole') }}", r"no\\x1b\[31m such role"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ range(10 ** 9) }}", "range too big"),
        ("{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "its text does not end"),
        # on their way to Python
        ("{% for a in b %}" * 21 + "{% endfor %}" * 21, "too many statically nested blocks"),
        ("{% break %}", "outside loop"),
        ("{% continue %}", "in loop"),
        ("{{ dict(a=1, a=2) }}", "keyword argument repeated"),
        ("{% macro m(a, a) %}{% endmacro %}", "duplicate argument"),
        ("{{ " + "1" * 5000 + " }}", "4300 digits"),
        ("{% set None = 1 %}", "can't assign"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion"),
        ("{{ 1" + "+1" * 20_000 + " }}", "recursion"),
        ("{% if 1 %}" * 150 + "{% endif %}" * 150, "indentation|recursion|nested"),
    ],
)
def test_what_a_template_may_not(text, words):
    """Each ends in one line that names the file, and soon."""
    with pytest.raises(ElasticError, match=rf"(?i)^folder/chat_template.jinja: chat template: .*({words})") as raised:
        render(text)
    assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)


GRAPH = "{% set n = namespace(x=(1, 1)) %}{% for i in range(40) %}{% set n.x = (n.x, n.x) %}{% endfor %}"


@pytest.mark.parametrize(
    "text",
    [
        "{{ '{:>2147483647}'.format(1) }}",
        "{{ [0] * 10 ** 10 }}",
        "{{ 9 ** 999999999 }}",
        "{% for a in range(9999) %}{{ (range(99999) | list | sort | join | length) - 1 }}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        GRAPH + "{{ n.x }}",
        GRAPH + "{{ n.x | tojson }}",
        GRAPH + "{{ {n.x: 1} }}",
    ],
)
def test_what_takes_for_ever_or_all_memory_ends(text, monkeypatch):
    """Each ends by the limits of the process that renders, and nothing of it is here."""
    monkeypatch.setattr("nemo_elastic.io.apart.SECONDS", 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ElasticError, match=r"^folder/chat_template.jinja: chat template: (takes more than|its text)"):
        render(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB
    assert render("fine") == "fine"


def test_a_long_conversation_is_no_endless_loop():
    assert render("{% for m in messages %}{{ m.content }}{% endfor %}", USER * 50_000) == "Hi" * 50_000


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], r"messages: \[\] is not allowed; a list of messages such as"),
        ("Hi", "messages: 'Hi' is not allowed; a list of messages"),
        (["Hi"], r"messages\[0\]: 'Hi' is not allowed; a list of messages"),
        ([{"content": "Hi"}], r"messages\[0\]\.role: None is not allowed; a text"),
        ([*USER, {"role": "user", "content": 5}], r"messages\[1\]\.content: 5 is not allowed; a text"),
    ],
)
def test_what_is_no_conversation(messages, line):
    with pytest.raises(ElasticError, match=f"^{line}"):
        render(TEMPLATE, messages)


def test_what_a_template_refuses_is_told_in_its_words():
    with pytest.raises(ElasticError, match=r"chat_template.jinja: chat template: no role king$"):
        render(TEMPLATE, [{"role": "king", "content": "Hi"}])
