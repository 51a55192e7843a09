# One way in for people and for CI. Every target sets up what it needs; as root, Debian packages too.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash
export PATH := $(PATH):/usr/sbin:/sbin

PYTHON_IN_VENV := .venv/bin/python
OBJECTS := agent/podwire_agent/objects/flow.bpf.o agent/podwire_agent/objects/flow-compat.bpf.o
BCC_SOURCES := agent/podwire_agent/objects/bcc/include/stdbool.h
BPF_FILES := $(wildcard bpf/*.c bpf/*.h bpf/bcc/*.h bpf/bcc/*/*.h bpf/bcc/*/*/*.h)
C_FILES := $(BPF_FILES) $(wildcard tests/*/*.c tests/*/*/*.c)

.PHONY: help
help: ## This list
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: packages
packages:
	@tools/install-packages

.venv/.made: requirements/dev.txt pyproject.toml tools/make-venv | packages
	@echo "making .venv"
	@tools/make-venv

$(OBJECTS) &: bpf/flow.bpf.c $(wildcard bpf/*.h) tools/compile_bpf.py .venv/.made
	$(PYTHON_IN_VENV) -m tools.compile_bpf

$(BCC_SOURCES): $(BPF_FILES) tools/bcc_sources.py .venv/.made
	$(PYTHON_IN_VENV) -m tools.bcc_sources

.PHONY: setup
setup: .venv/.made ## Debian packages (as root), .venv with locked dependencies, the kernel programs
	@if command -v clang >/dev/null && command -v llvm-strip >/dev/null; then \
		$(MAKE) --no-print-directory build; \
	else \
		echo "bpf/ is not compiled: clang or llvm-strip is missing" >&2; \
	fi

.PHONY: build
build: $(OBJECTS) $(BCC_SOURCES) ## The kernel programs and what BCC makes them of, into the agent's package

.PHONY: demo
demo: setup ## Two pods' real connections, live (DEMO_SECONDS=10 ends by itself)
	@$(PYTHON_IN_VENV) tools/demo.py

.PHONY: check
check: setup ## Format, lint, types, import contracts, generated files
	.venv/bin/ruff format --check --quiet
	.venv/bin/ruff check --quiet
	.venv/bin/mypy --no-error-summary
	.venv/bin/lint-imports --no-logo
	clang-format --dry-run -Werror $(C_FILES)
	$(PYTHON_IN_VENV) -m tools.generate_layout --check
	$(PYTHON_IN_VENV) -m tools.generate_crds --check

.PHONY: cluster-packages
cluster-packages: packages
	@tools/install-packages tools/debian-packages-cluster.txt

.PHONY: test
test: setup cluster-packages ## All tests this machine can run; PODWIRE_REQUIRE=unit,contract,kernel,cluster: fail where it cannot
	$(PYTHON_IN_VENV) -m pytest $(PYTEST_OPTIONS)

.PHONY: bench
bench: setup ## The budgets, measured side by side (root)
	@$(PYTHON_IN_VENV) -m tests.bench.run $(BENCH_OPTIONS)

.PHONY: images
images: .venv/.made ## The container images of agent and operator, with their sizes (root; IMAGES_OPTIONS for buildah)
	@tools/install-packages tools/debian-packages-images.txt
	@$(PYTHON_IN_VENV) -m tools.images $(IMAGES_OPTIONS)

.PHONY: cluster-up
cluster-up: setup cluster-packages ## Kubernetes on this machine: two nodes in namespaces, with the images (root)
	@$(PYTHON_IN_VENV) -m tools.cluster up

.PHONY: cluster-down
cluster-down: .venv/.made ## The end of it
	@$(PYTHON_IN_VENV) -m tools.cluster down

.PHONY: demo-cluster
demo-cluster: setup cluster-packages ## Podwire on that cluster, and two pods that talk (DEMO_KEEP=1 leaves it there)
	@$(PYTHON_IN_VENV) -m tools.demo_cluster

.PHONY: bench-loaders
bench-loaders: setup ## What each loader costs, measured into docs/reference/loaders.md (root)
	@$(PYTHON_IN_VENV) -m tests.bench.loaders

.PHONY: generate
generate: setup ## What is generated: layout.py from bpf/flow.h, crds/*.yaml from the models, the JSON Schemas from the lines
	$(PYTHON_IN_VENV) -m tools.generate_layout
	$(PYTHON_IN_VENV) -m tools.generate_crds
	$(PYTHON_IN_VENV) -m tools.generate_schemas

.PHONY: format
format: setup ## Python and C, in place
	.venv/bin/ruff check --quiet --select I --fix
	.venv/bin/ruff format --quiet
	clang-format -i $(C_FILES)

PIP_COMPILE = env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL .venv/bin/pip-compile --quiet --no-config \
	--upgrade --strip-extras --allow-unsafe --generate-hashes --no-header --no-emit-options --no-emit-index-url \
	--no-emit-trusted-host --no-emit-find-links

.PHONY: lock
lock: .venv/.made ## Newer dependencies, with hashes; the images' are among those that are tested
	$(PIP_COMPILE) --extra agent --extra operator --extra dev --output-file requirements/dev.txt pyproject.toml
	$(PIP_COMPILE) --constraint requirements/dev.txt --extra agent --output-file requirements/agent.txt pyproject.toml
	$(PIP_COMPILE) --constraint requirements/dev.txt --extra operator --output-file requirements/operator.txt pyproject.toml
	$(PIP_COMPILE) --constraint requirements/dev.txt --build-deps-for wheel --only-build-deps \
		--output-file requirements/build.txt pyproject.toml

.PHONY: clean
clean: ## All that make made, but for Debian packages
	rm -rf .venv build ./*.egg-info agent/podwire_agent/objects
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find agent crds operator tests tools -name __pycache__ -prune -exec rm -rf {} +
