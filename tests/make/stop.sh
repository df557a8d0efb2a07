#!/usr/bin/env bash
# Ends what `make run` and `make fleet` started: daemons, the GitLab stand-in, PostgreSQL, and the engine if it is ours.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

step 'Stopping'
finish daemon 30
finish gitlab 10
end_fleet
# The engine takes containers along that still run.
finish dockerd 60
note 'nothing of ours runs any more'
