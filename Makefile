# The two commands are `make run` and `make test`. What they do stands in tests/make/ and .ci/.
.PHONY: help run fleet stop test test-engines test-systemd dist drain latency decision chaos soak fuzz schemathesis lint

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | column -t -s '|'

run: ## Get what is missing, build, start the daemon, and show the main job (PORT=8080)
	@PORT="$(PORT)" tests/make/run.sh

fleet: ## Three daemons that share one PostgreSQL: jobs run on all of them, and a machine is lost (PORT=8080)
	@PORT="$(PORT)" tests/make/fleet.sh

stop: ## End what `make run` and `make fleet` started
	@tests/make/stop.sh

test: ## Get what is missing and run every test, those against a real engine too
	@tests/make/test.sh

test-engines: ## Run the tests that drive an engine against a newer one too
	@tests/make/engines.sh

test-systemd: ## Show the Debian package and its unit on a systemd of its own
	@tests/make/systemd.sh

dist: ## Make what is handed out, in target/dist: archive, Debian package, image, checksums, list of parts
	@tests/make/dist.sh

drain: ## Drain 1,000 queued jobs through a real engine (JOBS=1000)
	@JOBS="$(JOBS)" tests/make/drain.sh

latency: ## Measure the time from GitLab's bell to a runner's first line, beside `docker run` (RUNS=30)
	@RUNS="$(RUNS)" tests/make/latency.sh

decision: ## Measure one decision with 1,000 and with 1,000,000 queued jobs (JOBS=1000000)
	@JOBS="$(JOBS)" tests/make/decision.sh

chaos: ## Kill daemons, engine and jobs at random moments: nothing lost, doubled or left (ROUNDS=20 SEED=; MODE=agreement, MODE=soak)
	@ROUNDS="$(ROUNDS)" SEED="$(SEED)" MODE="$(MODE)" CONTAINERS="$(CONTAINERS)" MINUTES="$(MINUTES)" tests/make/chaos.sh

soak: ## Simulate many seeds of faults: engine, disk, GitLab, clock and crashes (SEEDS=1000000 FROM=0)
	@SEEDS="$(SEEDS)" FROM="$(FROM)" tests/make/soak.sh

fuzz: ## Fuzz what comes from outside, guided by coverage (SECONDS_EACH=600 AT_ONCE=1 TARGETS="webhook broker …" SEED=…)
	@SECONDS_EACH="$(SECONDS_EACH)" AT_ONCE="$(AT_ONCE)" TARGETS="$(TARGETS)" SEED="$(SEED)" tests/make/fuzz.sh

schemathesis: ## Ask a daemon for all that its description allows, and for much that it does not (EXAMPLES=200 SEED=…)
	@EXAMPLES="$(EXAMPLES)" SEED="$(SEED)" tests/make/schemathesis.sh

lint: ## Formatting, lints and the documentation, warnings denied
	@.ci/lint
