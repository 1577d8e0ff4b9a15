# `make run` and `make test` do all the set-up; the other targets are for people who change the code.

CARGO_DENY_VERSION := 0.20.2

.PHONY: run test simulate chaos mutants schemathesis bench bench-quick lint prepare prepare-check set-up set-up-tests help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

run: $(if $(DATABASE_URL),,set-up) ## Serve on 127.0.0.1:5000, with a private PostgreSQL unless DATABASE_URL is set
	cargo run --release --locked

test: set-up-tests ## Run every test, against a throwaway PostgreSQL
	cargo test --locked

# FROM defaults to the current time, so that each run tries different seeds; the run prints which.
simulate: export FROM ?= $(shell date +%s)00000
simulate: export SEEDS ?= 100000
simulate: ## Simulate SEEDS (100,000) seeds starting at FROM, or show the single seed SEED
	cargo test --release --locked --test it no_seed_breaks_a_promise -- --nocapture

ROUNDS ?= 20
chaos: set-up-tests ## Try each real fault ROUNDS (20) times, and update docs/reliability.md; takes 40 minutes
	cargo run --quiet --locked --package xtask -- chaos $(ROUNDS)

mutants: set-up-tests ## Break each rule of the engine in turn, and check that a test notices; takes an hour
	cargo run --quiet --locked --package xtask -- mutants --write

schemathesis: set-up ## Test the API with requests that its OpenAPI document allows or forbids; needs Python
	sh scripts/schemathesis --max-examples 1000

bench: set-up ## Measure everything, and update docs/performance.md; takes 26 minutes
	cargo bench --locked --bench hot_event -- --write

bench-quick: set-up ## Measure the most important things, and only print the results; takes 3 minutes
	cargo bench --locked --bench hot_event -- --quick

lint: set-up ## Run Clippy with warnings denied; check the rules of make mutants, all licences and sources
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo run --quiet --locked --package xtask -- mutants --check
	@cargo deny --version 2>/dev/null | grep -qx 'cargo-deny $(CARGO_DENY_VERSION)' \
		|| cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked
	cargo deny check licenses bans sources

prepare: set-up ## Regenerate sqlx-data.json from the queries and the migrations
	cargo run --quiet --locked --package xtask -- prepare

prepare-check: set-up ## Check whether sqlx-data.json is up to date
	cargo run --quiet --locked --package xtask -- prepare --check

set-up:
	@sh scripts/set-up

set-up-tests:
	@sh scripts/set-up curl faketime python3-venv chromium chromium-driver
