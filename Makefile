# Everything a person or a CI machine does with Partyline. `make help` lists it.

# What `make run` and `make cluster` are built with: `release` (fit to be measured) or `dev` (builds quicker).
PROFILE ?= release
# Passed on to `make cluster`.
NATS ?= 3
GATEWAYS ?= 3
PERSISTERS ?= 2
# What `make loadtest` measures, and its options.
ARGS ?= all --seconds 60
# Plans of `make plans`: how many, and the first one's seed.
SEEDS ?= 2000
FROM ?= 0

STACK = -p partyline-devstack -p partyline-gateway -p partyline-persister
# cargo knows where it builds to (CARGO_TARGET_DIR, its configuration); recursive, so only asked when needed.
PROGRAMS = $$(scripts/target-dir)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.DEFAULT_GOAL := help
.PHONY: help run cluster build test plans upgrade lint fmt loadtest bench screenshots deny clean purge

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

run: ## NATS, Postgres, persister, gateway and the chat page, until Ctrl-C (PROFILE=dev builds quicker)
	@cargo build --profile $(PROFILE) $(STACK) --bins
	@exec "$(PROGRAMS)/devstack" run

cluster: ## The same with several of each (NATS=3 GATEWAYS=3 PERSISTERS=2)
	@cargo build --profile $(PROFILE) $(STACK) --bins
	@exec "$(PROGRAMS)/devstack" cluster --nats $(NATS) --gateways $(GATEWAYS) --persisters $(PERSISTERS)

build: ## Every program, as for deployment
	cargo build --release --workspace --bins

test: ## Every lint and every test: Rust with real NATS and Postgres, TypeScript, the browser
	@scripts/test

plans: ## Randomised plans on two gateways (SEEDS=2000 FROM=0); what fails is shrunk into target/plans
	@mkdir -p "$$(scripts/target-dir)/plans"
	@PLANS=$(SEEDS) PLANS_FROM=$(FROM) PLANS_OUT="$$(scripts/target-dir)/plans" \
		cargo test --workspace --no-default-features --test plans every_client -- --nocapture

upgrade: ## Two versions side by side, while people talk: this one, and FROM=<commit or tag>
	@scripts/upgrade "$(FROM)"

lint: ## Format and lints only
	@scripts/test lint

fmt: ## Formats the Rust code
	cargo fmt --all

loadtest: ## 10,000 people, 100 messages a second, a verdict; beside `make run`, or by itself (ARGS=storm, ARGS=room, ARGS=idle, ARGS=goose, ARGS=--help)
	@cargo build --release $(STACK) -p partyline-loadtest --bins
	@exec "$$(scripts/target-dir)/release/loadtest" $(ARGS)

bench: ## Micro-benchmarks
	cargo bench --workspace --benches

screenshots: ## The pictures of docs/images, anew
	@cargo build $(STACK) --bins
	@PARTYLINE_CHROMIUM="$$(scripts/chromium)" PARTYLINE_DEVSTACK="$$(scripts/target-dir)/debug/devstack" npm --prefix web run screenshots

deny: ## Licences and known vulnerabilities of the dependencies (needs cargo-deny, its database and npm's registry)
	cargo deny check
	npm --prefix web audit
	npm --prefix gateway/tests/socketio audit

clean: ## Removes what was built; data and fetched servers stay
	cargo clean
	rm -rf web/dist web/node_modules

purge: clean ## Removes the stack's data and the fetched servers, too
	@scripts/purge
