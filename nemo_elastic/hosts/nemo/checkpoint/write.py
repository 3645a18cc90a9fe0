# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Write NeMo 2 checkpoints that stock NeMo loads without this package.

The folder holds what NeMo itself writes: `weights/`, a torch_dist checkpoint under megatron-core's names, and
`context/`, from which `io.load_context` rebuilds a stock `MambaModel` with a stock `NemotronHConfigBase`.

No Megatron module is built for it. The layout table knows every tensor's name, shape and parts, so tensors go to
megatron-core's checkpoint writer as they are: no second copy of the model, no TransformerEngine, no model-parallel
state, and no random number is taken. All it takes is a process group of one, made for the moment where there is none.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.adapter import to_megatron
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import CHECKPOINT
from nemo_elastic.formats.megatron.metadata import PREFIX
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.formats.tokenizer import copy_tokenizer, find_tokenizer
from nemo_elastic.io.outputs import atomic_dir, check_room
from nemo_elastic.megatron.dist_checkpoint import dtype_args, process_group, quiet, sharded
from nemo_elastic.slicing.cutting import without_mtp


def write_nemo_checkpoint(
    out: str | os.PathLike[str],
    parent: Parent,
    member: Subnet,
    tensors_hf: Mapping[str, Any],
    tokenizer_dir: str | os.PathLike[str] | None = None,
    force: bool = False,
    seq_length: int = 8192,
) -> Path:
    """Write a uniform member (or the whole parent, `parent.full`) as a NeMo checkpoint of stock classes.

    It may be called in a process that trained before, or in one that never started Megatron; neither finds anything
    changed afterwards. megatron-core's writer starts a process that imports the caller's `__main__` again: a script
    has to guard its work with `if __name__ == "__main__":`.

    Args:
        out: the checkpoint folder; written whole or not at all.
        parent: shape the member was cut from.
        member: the member. Its vocabulary is the parent's: nothing is padded.
        tensors_hf: torch tensors, numpy arrays or tensors of a file by HF name, layers numbered within the member. The
            embedding's type becomes the config's (fp32, bf16 or fp16).
        tokenizer_dir: a folder with a Hugging Face tokenizer, which is copied into the checkpoint; a model's folder
            serves, its weights are left alone (`find_tokenizer`). Without one, whoever loads the checkpoint brings a
            tokenizer.
        force: replace an existing `out`.
        seq_length: longest sequence that the config allows for; Nemotron-H has no positions, so it bounds no weight.

    Returns:
        The path of the checkpoint.

    Raises:
        ElasticError: `out` exists; widths differ between the layers of a type (stock NeMo cannot say that); tensors do
            not fit the member; the tokenizer cannot be read or has more tokens than the model; this process is one of
            several.
    """
    sizes = stock_sizes(parent, member.validate(parent))
    with atomic_dir(out, force, [tokenizer_dir], CHECKPOINT) as folder:
        state = to_megatron(parent, member, tensors_hf)
        check_room(folder, sum(t.nbytes for t in state.values()))
        config_args = sizes | dtype_args(state["embedding.word_embeddings.weight"].dtype)
        config_args |= {"seq_length": seq_length}
        with process_group(), _tokenizer(tokenizer_dir) as tokenizer:
            context, common, io = _stock(config_args, parent.vocab, tokenizer)
            _save(folder, io, common, sharded(parent, member, state, PREFIX))
            context.io_dump(folder / "context", yaml_attrs=["model"])
    return Path(out)


def write_cut(member: Checkpoint, out: str | os.PathLike[str], force: bool = False) -> Path:
    """Write a member, without layers that predict further tokens: the writer of `slice --format nemo`.

    Raises:
        ElasticError: see `write_nemo_checkpoint`.
    """
    tokenizer, weights = find_tokenizer(member.companions), without_mtp(member).as_torch()
    return write_nemo_checkpoint(out, member.parent, member.subnet, weights, tokenizer, force)


def divisor(vocab: int, tokens: int) -> int:
    """`make_vocab_size_divisible_by` with which NeMo pads a tokenizer of `tokens` to exactly `vocab` rows.

    The smallest one, because NeMo multiplies it with the tensor-parallel size.

    Raises:
        ElasticError: the tokenizer has more tokens than the model has rows.
    """
    if not 0 < tokens <= vocab:
        raise bad("tokenizer", tokens, f"the model has rows for {vocab} tokens")
    return next(d for d in range(vocab - tokens + 1, vocab + 1) if vocab % d == 0)


def _stock(config_args: dict[str, Any], vocab: int, tokenizer: Any) -> tuple[Any, dict[str, Any], Any]:
    """NeMo's context of a stock model and trainer, the unsharded part of a checkpoint, and NeMo's writer."""
    import lightning.pytorch as pl
    from lightning.pytorch.utilities.rank_zero import rank_zero_module
    from nemo import lightning as nl
    from nemo.collections import llm
    from nemo.collections.llm.gpt.model.ssm import NemotronHConfigBase
    from nemo.lightning.io.pl import MegatronCheckpointIO, TrainerContext

    # The fused rotary kernel is refused where TransformerEngine is absent, and Nemotron-H has no positions to rotate.
    config_args = config_args | {"apply_rope_fusion": False}
    config_args["make_vocab_size_divisible_by"] = divisor(vocab, vocab if tokenizer is None else tokenizer.vocab_size)
    config = NemotronHConfigBase(**config_args)
    # NeMo captures constructor arguments only where no base class was built before in this process (it then takes the
    # class for one that captures already), so the capture is made here.
    config.__io__ = config.io_init(**config_args)
    model = llm.MambaModel(config, tokenizer=tokenizer)
    strategy = nl.MegatronStrategy(ckpt_save_optimizer=False, always_save_context=True)
    # A trainer says which devices there are, and where NeMo-Run has set up logging it says so on stdout, before the
    # JSON that a command writes there. Its logger is that of the Lightning package that was imported last.
    with quiet(rank_zero_module.log.name):
        trainer = nl.Trainer(devices=1, accelerator="cpu", strategy=strategy, logger=False, enable_checkpointing=False)
    common = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": OrderedDict(),
        "loops": {
            "fit_loop": trainer.fit_loop.state_dict(),
            "validate_loop": trainer.validate_loop.state_dict(),
            "test_loop": trainer.test_loop.state_dict(),
            "predict_loop": trainer.predict_loop.state_dict(),
        },
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }
    # parallel_save would ask for model-parallel groups to share the work of many processes; here is one
    io = MegatronCheckpointIO(save_ckpt_format="torch_dist", parallel_save=False)
    return TrainerContext(model=model, trainer=trainer, extra={}), common, io


@contextlib.contextmanager
def _tokenizer(folder: str | os.PathLike[str] | None) -> Iterator[Any]:
    """NeMo's wrapper of a Hugging Face tokenizer; None for None.

    NeMo copies the whole folder that it is given into the checkpoint, under its name. So it is given a copy that has
    the tokenizer's files alone, not the weights beside them, and always the same name.
    """
    if folder is None:
        yield None
        return
    if find_tokenizer(folder) is None:
        raise bad("tokenizer", str(folder), "a folder with a Hugging Face tokenizer")
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "tokenizer")
        copy_tokenizer(Path(folder), copy)
        try:
            tokenizer = AutoTokenizer(pretrained_model_name=str(copy))
        except Exception as exc:  # transformers and tokenizers raise whatever the files made them stumble over
            line = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
            raise ElasticError(f"tokenizer: {folder}: cannot be read ({line})") from exc
        yield tokenizer


def _save(folder: Path, io: Any, common: dict[str, Any], sharded: dict[str, Any]) -> None:
    from nemo.utils import logging as nemo_logging

    from nemo_elastic.megatron.cpu import cuda_as_cpu

    # what MegatronStrategy.sharded_state_dict_metadata says of weights without an optimizer
    metadata = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
    checkpoint = {**common, "sharded_state_dict": sharded}
    # The writer synchronises with a GPU whether or not there is one, and tells on stdout how long it took. What its
    # processes cannot write is reported on stderr and raised.
    with cuda_as_cpu(), nemo_logging.temp_verbosity(nemo_logging.WARNING), quiet("megatron.core.dist_checkpointing"):
        io.save_checkpoint(checkpoint, folder, storage_options={"content_metadata": metadata})
