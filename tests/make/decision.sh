#!/usr/bin/env bash
# Measures one decision with 1,000 queued jobs and with as many as JOBS says (default 1000000), and the fit over 1 and 1,000 machines.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export RC_DECISION_JOBS="${JOBS:-1000000}"
measure decision "Deciding with $RC_DECISION_JOBS jobs in the queue"
