# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of requests and members."""

from __future__ import annotations

import pytest

from nemo_elastic.serving.counters import Requests, Work, count_work

prometheus = pytest.importorskip("prometheus_client")


def metric(name: str, **labels: str) -> float:
    return prometheus.REGISTRY.get_sample_value(name, labels) or 0.0


def test_requests_are_counted_while_they_run_and_when_they_end():
    requests = Requests()
    with requests.asked("a>b") as answered:
        assert metric("nemo_elastic_requests_running", model="a>b") == 1
        answered(200)
    with pytest.raises(OSError), requests.asked("a>b"):
        raise OSError("the client went away before anything was said")
    assert metric("nemo_elastic_requests_running", model="a>b") == 0
    assert metric("nemo_elastic_requests_total", model="a>b", code="200") == 1
    assert metric("nemo_elastic_requests_total", model="a>b", code="none") == 1
    requests.refused(404)
    assert metric("nemo_elastic_requests_total", model="", code="404") >= 1


def test_work_of_members_comes_from_another_process():
    work = Work()
    work.add("tokens", "test-6b", 2)
    work.add("tokens", "test-6b", 3)
    work.add("steps", "test-6b", 1)
    report = work.taken()
    assert sorted(report.values()) == [1, 5] and work.taken() == {}
    count_work(report | {"an-adapter": 7, "nemo_elastic/other/6b": 1})
    count_work({})
    assert metric("nemo_elastic_tokens_total", member="test-6b") == 5
    assert metric("nemo_elastic_steps_total", member="test-6b") == 1
