# What CI runs and people type. `make test` is all that a fresh Debian machine as root needs.
SHELL := /bin/bash
CARGO ?= cargo

.PHONY: help test lint unit stack-test diagnosis demo soak test-swarm bench stack stack-down clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## /\t/' | expand -t 14

test:            ## everything, the real stack included (brings the engine and images up where they are missing)
	scripts/test

lint:            ## format and lints, as strict as CI
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

unit:            ## the tests that need nothing but cargo
	$(CARGO) test --locked

diagnosis:       ## every constraint staged on the real stack, each named by the diagnosis (about 15 minutes)
	eval "$$(scripts/engine)" && scripts/images && AUTOTUNE_TEST_STACK=1 AUTOTUNE_TEST_DIAGNOSIS=1 \
	  $(CARGO) test --locked --test it stack_diagnosis -- --test-threads=1 --nocapture

demo:            ## the main job on the built-in API
	$(CARGO) run --release --locked -- demo

soak:            ## every numbered fault, then 40 minutes of faults on a second engine (root; over an hour in all)
	$(CARGO) build --locked
	AUTOTUNE_TEST_SOAK=1 $(CARGO) test --locked --test it faults_study -- --nocapture --test-threads=1
	eval "$$(scripts/engine)" && scripts/images && tests/soak/run --minutes 40 --own-engine

test-swarm:      ## several hosts on one study (10,000 trials, 50 kills), and a service on a swarm of three nodes (root; half an hour)
	$(CARGO) build --locked
	AUTOTUNE_TEST_SWARM=1 $(CARGO) test --locked --test it shared_ -- --nocapture --test-threads=1
	eval "$$(scripts/engine)" && scripts/images && scripts/swarm-nodes up 3 && eval "$$(scripts/swarm-nodes env)" && \
	  { $(CARGO) test --locked --test it stack_swarm -- --nocapture --test-threads=1; code=$$?; scripts/swarm-nodes down; exit $$code; }

stack:           ## the demo stack up, for trying experiments/
	eval "$$(scripts/engine)" && scripts/images && docker compose up -d --build --wait

stack-down:      ## and down again
	docker compose down -v
