#!/usr/bin/env bash
# Drains a long queue through a real engine: the tests named drain, with as many jobs as JOBS says (default 1000).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export RC_DRAIN_JOBS="${JOBS:-1000}"
measure drain "Draining $RC_DRAIN_JOBS jobs beside a private engine"
