# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo elastic train`: the namespace that NeMo's command line finds through the entry points `nemo_run.cli`.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types.
"""

import inspect
import logging
import os
import pydoc
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fiddle
import nemo_run as run
import torch
import typer
import yaml
from lightning.pytorch import LightningDataModule
from nemo.collections import llm
from nemo.collections.llm.gpt.data import PreTrainingDataModule
from nemo.collections.llm.gpt.data.mock import MockDataModule
from nemo_run.cli.api import _is_torchrun
from nemo_run.cli.cli_parser import CLIException
from nemo_run.cli.config import yaml_to_json, yaml_to_toml
from nemo_run.cli.lazy import LazyEntrypoint, dictconfig_to_dot_list
from nemo_run.core.serialization.yaml import YamlSerializer
from omegaconf import OmegaConf

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, bad, did_you_mean, exit_in_one_line
from nemo_elastic.hosts.common.changes import made_by
from nemo_elastic.hosts.common.logs import errors_alone
from nemo_elastic.hosts.common.run_file import RunFile, value_of
from nemo_elastic.hosts.nemo.platform.strategy import without_cuda
from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
from nemo_elastic.hosts.nemo.recipe.checks import NemoRecipe, field_names
from nemo_elastic.hosts.nemo.tiny.recipe import nemotron_elastic_tiny
from nemo_elastic.io.outputs import check_apart
from nemo_elastic.io.write import atomic_write
from nemo_elastic.plugins import load_plugins

#: entry points of NeMo that train, in the order in which a factory's name is looked up among theirs
TRAINERS: tuple[Callable[..., Any], ...] = (llm.pretrain, llm.finetune, llm.train)

#: the field of a recipe that names text. NeMo annotates it as a union of types, which NeMo-Run's parser refuses
PATHS = "data.paths"
#: what a file with a whole run is written as, by --to-yaml and so on, of YAML
FORMATS: dict[str, Callable[[str], str]] = {"yaml": str, "json": yaml_to_json, "toml": yaml_to_toml}

#: what a file's fields may say, unless it is a whole recipe
CODE = "in a file that is no whole recipe, a value without calls and dotted names: those belong on the command line"
#: packages whose data classes a file may name
DATA_PACKAGES = ("nemo.collections.llm.", "nemo_elastic.hosts.nemo.")

run.cli.factory(target=llm.pretrain, name="nemotron_elastic_tiny")(nemotron_elastic_tiny)


class ElasticContext(run.cli.RunContext):
    """NeMo-Run's handling of a command line, for a recipe with an `elastic:` block.

    The task that it gives to NeMo-Run is the recipe as `apply_elastic` left it: dry run, confirmation, executors and
    direct runs are NeMo-Run's own.
    """

    def cli_execute(self, fn: Any, args: list[str], entrypoint_type: Any = "task") -> None:
        """Run or export; a mistake of the user's ends in one line and exit code 2, Ctrl-C in 130, else a traceback."""
        try:
            with exit_in_one_line():  # its SystemExit is no Exception, which NeMo-Run would take for unexpected
                load_plugins()
                if self.to_yaml or self.to_json or self.to_toml:
                    self.export([a for a in args if not a.startswith("run.")])
                else:
                    super().cli_execute(fn, args, entrypoint_type)
        except typer.Abort:
            typer.echo("error: not confirmed; --yes starts without asking", err=True)
            raise SystemExit(2) from None
        except Exception:
            traceback.print_exc()  # NeMo-Run prints the message alone
            raise

    def _execute_task(self, fn: Any, task_args: list[str]) -> None:
        """Run a task; one that is confirmed and runs in this process is not printed whole, and NeMo logs to files."""
        if self.dryrun or self.repl or not (self.direct or self.executor is None):
            super()._execute_task(fn, task_args)
            return
        errors_alone()
        task = self.parse_fn(fn, task_args)
        if not (self.skip_confirmation or _is_torchrun()):
            run.dryrun_fn(task, executor=self.executor)
        if not self._should_continue(self.skip_confirmation):
            typer.echo("nothing was started")
            return
        fields = NemoRecipe(task)
        folder = fields.get("save") or fields.get("log.log_dir") or "."
        if int(os.environ.get("RANK", 0)) == 0:
            typer.echo(f"NeMo's own lines go to {folder}, into nemo_log_globalrank-*.txt and lightning_logs.txt")
        run.run(task, name=self.name, plugins=self.plugins, direct=True)

    def parse_args(self, args: list[str], lazy: bool = False) -> Any:
        """NeMo-Run's own arguments, those that begin with `run.`; what it raises of a wrong one is one line."""
        with _one_line(" ".join(f"run.{arg}" for arg in args)):
            return super().parse_args(args, lazy)

    def read(self, args: Sequence[str]) -> tuple[run.Partial, RunFile]:
        """The stock recipe that --factory, --yaml and the overrides describe, and the elastic settings."""
        file = RunFile.load(self.yaml).override(args)
        factory = file.recipe.pop("_factory_", None) or file.recipe.get("run", {}).get("factory") or self.factory
        if "_target_" in file.recipe:  # a whole recipe, as --to-yaml writes it
            if factory:
                raise bad("--factory", factory, f"nothing: {self.yaml} has a whole recipe")
            whole = whole_recipe(file.recipe)
            with _one_line(f"--yaml {self.yaml}", whole, file.overrides):
                _, overrides = give_data(whole, {}, file.overrides)
                return run.cli.parse_cli_args(whole.clone(), overrides), file
        check_no_code(file.recipe if factory == self.factory else file.recipe | {"_factory_": factory})
        trainer = trainer_of(factory)
        with _one_line(f"--factory {factory}"):
            base = LazyEntrypoint(trainer, factory=factory).resolve(ctx=self)
        with _one_line("recipe"):
            fields, overrides = give_data(base, file.recipe, file.overrides)
        given = OmegaConf.create(fields)
        settings = [
            f"{name}{op}{value}" for name, op, value in dictconfig_to_dot_list(given, has_factory=bool(factory))
        ]
        with _one_line("recipe", base, [*settings, *overrides]):
            return LazyEntrypoint(trainer, lambda: base, given, overrides).resolve(ctx=self), file

    def parse_fn(self, fn: Any, args: list[str], **default_kwargs: Any) -> Any:
        """The elastic recipe; prints what was changed. One that starts here has a CPU's settings without a GPU."""
        recipe, file = self.read(args)
        if self.starts_here and not torch.cuda.is_available():
            view = NemoRecipe(recipe)
            view.check_kind()  # so that there is a model and a strategy
            without_cuda(recipe)
            if view.changes.lines(recipe):  # a tiny recipe has a CPU's settings
                typer.echo(view.changes.text(recipe, "a machine without a GPU"))
        return file.apply(recipe, apply_elastic)

    @property
    def starts_here(self) -> bool:
        """Whether NeMo-Run has read where the task is to run, and it is this machine."""
        return not self.dryrun and "executor" in vars(self) and isinstance(self.executor, run.LocalExecutor | None)

    def export(self, args: Sequence[str]) -> None:
        """Write the recipe and the elastic settings as one file that --yaml reads back, once they are seen to fit."""
        wanted = {kind: path for kind in FORMATS if (path := getattr(self, f"to_{kind}"))}
        for kind, path in wanted.items():
            name = path.partition(":")[0]  # behind the colon is the one section to write
            if os.path.lexists(name):  # NeMo-Run's command has no --force
                raise ElasticError(f"--to-{kind}: {name} already exists and is not replaced; name another file")
        recipe, file = self.read(args)
        for path in wanted.values():
            check_apart(path.partition(":")[0], *(file.settings.get(key) for key in ("teacher", "previous")))
        whole = yaml.safe_load(YamlSerializer().serialize(recipe))
        file.apply(recipe, apply_elastic)
        settings = file.settings | {"elastic": ElasticConfig.from_dict(file.settings["elastic"]).to_dict()}
        for kind, path in wanted.items():
            name, _, section = path.partition(":")
            data = settings | whole
            if section and section not in data:
                raise bad(f"--to-{kind}", section, f"after the colon one of {', '.join(data)}")
            atomic_write(name, FORMATS[kind](yaml.safe_dump(data[section] if section else data)), replace=False)
            typer.echo(f"written: {path}; nothing was started")


def whole_recipe(data: Any) -> Any:
    """The recipe that NeMo-Run's YAML of one describes: `_target_`, `_partial_` and `_call_` as it writes them.

    NeMo-Run's own reader goes through the command line's parser, which takes neither a list of configs (callbacks,
    plugins) nor a class without a signature (timedelta). As there, the file names code to import: trusted input.
    """
    if isinstance(data, list):
        return [whole_recipe(x) for x in data]
    if not isinstance(data, dict):
        return data
    arguments = {k: whole_recipe(v) for k, v in data.items() if k not in ("_target_", "_partial_", "_call_")}
    if "_target_" not in data:
        return arguments
    try:
        target = pydoc.locate(data["_target_"])
        if target is None:
            raise ImportError("no such name")
        if not data.get("_call_", True):
            return target
        return (run.Partial if data.get("_partial_") else run.Config)(target, **arguments)
    except (ImportError, pydoc.ErrorDuringImport, TypeError) as error:
        raise ElasticError(f"_target_: {data['_target_']}: {str(error).splitlines()[0]}") from None


def check_no_code(value: Any, field: str = "") -> None:
    """Raise for a field of a file that NeMo-Run's parser would import or call: its own fields take them for factories.

    A class of data is looked at by `give_data`; paths of data no parser reads.
    """
    if field == PATHS or (field == "data._target_" and isinstance(value, str)):
        return
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not re.fullmatch(r"\w+([*+-]?=)?", str(key)) or (key == "_target_" and field != "data"):
                raise bad(f"{field}.{key}".lstrip("."), each, f"{CODE}; only data have a `_target_`")
            check_no_code(each, f"{field}.{key}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            check_no_code(each, field)
    elif isinstance(value, str):
        names = (part.strip(" []{}()'\"") for part in re.split(r"[,=:]", value))
        if re.search(r"\w\s*\(|\blambda\b", value) or any(re.fullmatch(r"[^\W\d]\w*(\.\w+)+", n) for n in names):
            raise bad(field, value, CODE)


def give_data(recipe: Any, fields: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Let a recipe, which is changed, read what a run names as its data.

    `data: {_target_: …}` takes the place of the recipe's data, and has of them what it does not say itself: length,
    batch, tokenizer. `data.paths`, in the file or as an override, needs no target where a recipe makes up its tokens.

    What of both `fields`, of the run's file, and `overrides` NeMo-Run is to read, is returned.
    """
    section = fields.get("data")
    data = dict(section) if isinstance(section, Mapping) else {}
    paths = [data.pop("paths")] if "paths" in data else []
    paths += [value_of(PATHS, text.removeprefix(f"{PATHS}=")) for text in overrides if text.startswith(f"{PATHS}=")]
    target = data.pop("_target_", None)
    if target is not None and not target.startswith(DATA_PACKAGES):
        raise bad("data._target_", target, f"a class of data of {', '.join(DATA_PACKAGES)}")
    made: Any = PreTrainingDataModule if target is None else made_by(whole_recipe({"_target_": target}))
    if target is not None and not (isinstance(made, type) and issubclass(made, LightningDataModule)):
        raise bad("data._target_", target, f"a class of data of {', '.join(DATA_PACKAGES)}")
    if target is not None or (paths and made_by(recipe.data) is MockDataModule):
        known = field_names(made)
        recipe.data = run.Config(made, **{k: v for k, v in recipe.data.__arguments__.items() if k in known})
    if paths:
        made = made_by(recipe.data)
        if "paths" not in field_names(made):
            raise ElasticError(
                f"{PATHS}: {made.__name__} has no such field; data: {{_target_: …}} names another class"
            )
        recipe.data.paths = paths[-1]
    rest = {name: value for name, value in fields.items() if name != "data" or not isinstance(section, Mapping)}
    return rest | ({"data": data} if data else {}), [o for o in overrides if not o.startswith(f"{PATHS}=")]


def trainer_of(factory: str | None) -> Callable[..., Any]:
    """The entry point of NeMo under which a factory is registered; `llm.pretrain` for one given by its import path."""
    if factory is None:
        return TRAINERS[0]
    name, _, given = factory.partition("(")
    name = name.strip()
    for trainer in TRAINERS:
        try:
            resolved = run.cli.resolve_factory(trainer, name)
        except ValueError:
            continue
        arguments = inspect.signature(resolved).parameters
        for argument in re.findall(r"(?:^|,)\s*(\w+)\s*=", given):
            if argument not in arguments:
                raise ElasticError(
                    f"--factory {name}: unknown argument {argument!r}{did_you_mean(argument, arguments)}"
                )
        return trainer
    if "." in name:
        return TRAINERS[0]
    raise bad("--factory", name, "the name of a recipe" + did_you_mean(name, dir(llm.recipes)))


@contextmanager
def _one_line(where: str, recipe: Any = None, overrides: Sequence[str] = ()) -> Iterator[None]:
    """An error of NeMo-Run's as one line that names the override: its own text has the whole recipe in it."""
    parser = logging.getLogger("nemo_run.cli.cli_parser")  # it logs what it raises
    quiet, parser.disabled = parser.disabled, True
    try:
        yield
    except ElasticError:
        raise
    except CLIException as error:
        for override in overrides:  # each on what those before it have left: they may have made what it names
            try:
                recipe = run.cli.parse_cli_args(recipe.clone(), [override])
            except CLIException:
                field, _, value = override.partition("=")
                refused = bad(field, value, "a field of the recipe, with a value that NeMo-Run reads")
                raise refused.within(where) from None
        raise ElasticError(str(error), where) from error
    except Exception as error:  # a factory may raise anything
        raise ElasticError(f"{where}: {error}") from error
    finally:
        parser.disabled = quiet


@run.cli.entrypoint(namespace="elastic", name="train", run_ctx_cls=ElasticContext)
def train(
    recipe: run.Partial,
    elastic: dict,
    teacher: str | None = None,
    stage: int = 1,
    previous: str | None = None,
    total_steps: int | None = None,
    out: str | None = None,
    mock_data: bool = False,
) -> Path:
    """Train a nested family with any stock recipe of a Nemotron-H.

    On the command line the recipe is what --factory and --yaml say, and its own fields are overridden as usual
    (trainer.max_steps=100). The YAML file may hold `elastic:`, `teacher:` and the others beside the recipe's fields.

    Args:
        recipe: a recipe of llm.pretrain, llm.finetune or llm.train with a MambaModel.
        elastic: the elastic block; elastic.search.tokens=4096 changes one field, elastic=@elastic.yaml reads a file.
        teacher: NeMo checkpoint of the parent; the frozen teacher, and what stage 1 starts from.
        stage: 1, 2 or 3 of the curriculum.
        previous: stages 2 and 3: checkpoint at the end of the one before, or the folder of its training.
        total_steps: steps of all stages; those of this recipe and of the stages before if not given.
        out: folder for ranking and shapes; `elastic` in the log directory if not given.
        mock_data: train on the random tokens of a stock recipe's data, which are refused otherwise.

    Returns:
        The log directory of the run.

    Examples:
        $ nemo elastic train --factory nemotron_nano_12b_v2 --yaml elastic.yaml teacher=/checkpoints/12b
        $ nemo elastic train --yaml run.yaml elastic.search.tokens=4096 trainer.max_steps=1000 --to-yaml changed.yaml
    """
    task = apply_elastic(
        recipe,
        elastic,
        teacher=teacher,
        stage=stage,
        previous=previous,
        total_steps=total_steps,
        out=out,
        mock_data=mock_data,
    )
    return fiddle.build(task)()


def main(argv: Sequence[str], prog: str) -> None:
    """`nemo elastic train` under another name.

    Raises:
        SystemExit: always.
    """
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    train.cli_entrypoint.cli(app)
    typer.main.get_command(app).main(args=list(argv), prog_name=prog)
