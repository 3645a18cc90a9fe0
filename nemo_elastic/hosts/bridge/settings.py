# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a `ConfigContainer` by their dotted names, and every one that has another value than before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from nemo_elastic.hosts.common.changes import Changes, MadeName

__all__ = ["ConfigChanges", "run_settings", "settings"]

#: why a setting that a user knows gets another value
REASONS = {
    "checkpoint.custom_manager_class": "no save that fails half-way",
    "checkpoint.load": "a run that was stopped goes on",
    "checkpoint.pretrained_checkpoint": "the teacher is the start",
    "ddp.check_for_nan_in_grad": "elastic.nonfinite looks at them",
    "model.moe_router_force_load_balancing": "the router chooses experts",
    "model.seq_length": "that of the data",
    "model.should_pad_vocab": "the teacher's is whole",
    "model.vocab_size": "the teacher's",
    "model.variable_seq_lengths": "stages pass on the teacher's hidden states beside the student's",
    "tokenizer.use_tokenizer_vocab_size": "the teacher's vocabulary holds",
    "tokenizer.vocab_size": "the teacher's; NullTokenizer stands for none",
    "validation.eval_iters": "every member is validated",
}
#: what is one line, however many values it has
WHOLE = {"optimizer_config_override_provider": "the elastic block"}


def settings(config: Any) -> dict[str, Any]:
    """Every setting of a config by its dotted name: plain values as they are, classes and functions by their names."""
    return dict(_settings(config, ""))


def _settings(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        yield name, MadeName(type(value).__qualname__)
        for field in fields(value):
            if not field.name.startswith("_") and hasattr(value, field.name):
                yield from _settings(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _settings(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for key, inner in enumerate(value):
            yield from _settings(inner, f"{name}[{key}]")
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield name, value
    else:
        yield name, getattr(value, "__qualname__", None) or str(value)


def run_settings(run: Any) -> dict[str, Any]:
    """Every setting of an `ElasticRun`: the container's, and what its forward step and its callback were given."""
    step, callback = run.forward_step, run.callbacks[0]
    own = {
        "stage": step.family.stage,
        "steps": step.family.steps,
        "teacher": step.teacher,
        "previous": callback.previous,
        "out": str(callback.out),
        "metrics": str(callback.file),
        "label": callback.label,
        "rank_only": callback.rank_only,
        "callbacks": ", ".join(type(one).__name__ for one in run.callbacks),
    }
    return settings(run.config) | own | {f"rates.{name}": value for name, value in vars(callback.rates).items()}


class ConfigChanges(Changes):
    """`hosts.common.changes.Changes` of a `ConfigContainer`."""

    settings = staticmethod(settings)
    reasons = REASONS
    whole = WHOLE
