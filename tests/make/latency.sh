#!/usr/bin/env bash
# Measures the time from GitLab's bell to a runner's first line, as often as RUNS says (default 30), beside `docker run`.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export RC_LATENCY_RUNS="${RUNS:-30}"
measure latency "Measuring $RC_LATENCY_RUNS starts beside a private engine"
