#!/usr/bin/env bash
# Shows the Debian package and its unit on a real systemd: one of Debian's own, in a container of its own (systemd-nspawn), beside a private
# engine. Installs, starts, reloads, runs a job of GitLab, stops, hangs, upgrades and purges, and fails at the first thing that is not as it should be.
#
#   RC_DIST_BIN  the binary to be packaged; default: target/debug/runner-coordinator, stripped
#
# The base system is made once with debootstrap from this machine's own mirror and kept in target/systemd.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. tests/make/newcomer.sh

readonly directory=$(target_directory)/systemd
readonly unit=runner-coordinator.service socket=runner-coordinator.socket path=/run/runner-coordinator/api.sock
readonly boot_seconds=60 patience=60

suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
base=$directory/base-$suite-1

# make_base: the base system, made once for each Debian release. Needs a network, which the engine's namespace does not have.
make_base() {
    local origin mirror
    [ ! -e "$base.whole" ] || return 0
    origin=$(. /etc/os-release && printf '%s' "${ID^}")
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "Origin: $origin" "Codename: $suite" 'Component: main' | sed -n 1p)
    [ -n "$suite" ] && [ -n "$mirror" ] || fail 'this machine knows no mirror of its distribution'
    note "debootstrap of $suite"
    rm -rf "$base"
    mkdir -p "$directory"
    debootstrap --variant=minbase --include=systemd,init-system-helpers,curl,nftables "$suite" "$base" "$mirror" >"$directory/debootstrap.log" 2>&1 </dev/null ||
        fail "debootstrap failed: $(tail -n 5 "$directory/debootstrap.log")"
    touch "$base.whole"
}

if [ -z "${RC_TEST_ENGINE:-}" ]; then
    tests/make/setup.sh systemd
    step 'Getting a systemd of our own'
    make_base
    step 'Building the daemon and the stand-in runner'
    cargo build --locked --bin runner-coordinator --example stand-in-runner --example gitlab-stand-in
    RC_RUNNER_BIN="$(target_directory)/debug/examples/stand-in-runner"
    export RC_RUNNER_BIN
    exec tests/with-engine "$0"
fi

machine=$directory/machine
nspawn=
leader=

# inside COMMAND...: runs it in the machine, as its root.
inside() {
    nsenter --target "$leader" --mount --uts --ipc --pid --cgroup -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"
}

journal() {
    inside journalctl --no-pager --lines "${1:-40}" --unit "$unit" || true
}

# must WHAT COMMAND...: fails with the journal when the command does.
must() {
    local what=$1
    shift
    if ! "$@" >"$directory/last" 2>&1; then
        { cat "$directory/last" && journal; } >&2
        fail "not so: $what"
    fi
    note "$what"
}

# soon WHAT COMMAND...: the same for what takes a moment.
soon() {
    local what=$1
    shift
    must "$what" until_true "$patience" "$@"
}

boot() {
    local engine=${DOCKER_HOST#unix://}
    rm -rf "$machine"
    cp -a --reflink=auto "$base" "$machine"
    # The engine's socket belongs to a group, and that group is docker in there too.
    printf 'docker:x:%s:\n' "$(stat -c %g "$engine")" >>"$machine/etc/group"
    rm -f "$machine/etc/machine-id"
    # The engine is outside and sees the machine's files below this directory.
    mkdir -p "$machine/etc/systemd/system/$unit.d"
    printf '[Service]\nEnvironment=RUNNER_COORDINATOR__DOCKER__DATA_DIR=%s\n' "$machine/var/lib/runner-coordinator" >"$machine/etc/systemd/system/$unit.d/engine.conf"
    # A machine that boots for the first time starts every service that it has; these would flush the engine's rules, and manage its interfaces,
    # which are in the same network.
    for other in nftables.service systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service; do
        ln -s /dev/null "$machine/etc/systemd/system/$other"
    done
    mkdir -p "$machine/packages"
    # It shares the engine's network, since the daemon listens on the runners' bridge and sets the rules of its jobs' networks there.
    systemd-nspawn --directory="$machine" --machine=rc-systemd --capability=CAP_NET_ADMIN --boot --register=no --keep-unit --console=passive \
        --bind="$engine:/run/docker.sock" </dev/null >"$directory/console.log" 2>&1 &
    nspawn=$!
    trap power_off EXIT
    is_up() {
        leader=$(tr ' ' '\n' <"/proc/$nspawn/task/$nspawn/children" | sed -n 1p) && [ -n "$leader" ] && [ "$(inside systemctl is-system-running 2>/dev/null)" = running ]
    }
    until_true "$boot_seconds" is_up || fail "systemd does not come up: $(tail -n 20 "$directory/console.log")"
    note "$(inside systemctl --version | sed -n 1p)"
}

power_off() {
    local status=$?
    trap '' EXIT
    end_gitlab
    kill -TERM "$nspawn" 2>/dev/null || true
    until_true 20 ended "$nspawn" || kill -KILL "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
    rm -rf "$machine"
    exit "$status"
}

property() {
    inside systemctl show --property "$2" --value "$1"
}

is() {
    [ "$(property "$1" "$2")" = "$3" ]
}

# api METHOD PATH [BODY [OPTION...]]: over the Unix socket, as root unless `as` names a user.
api() {
    inside setpriv --reuid "${as:-0}" --init-groups curl -sS --fail-with-body --max-time 20 --unix-socket "$path" -X "$1" "http://localhost$2" \
        ${3:+-H 'content-type: application/json' --data-binary "$3"} "${@:4}"
}

healthy() {
    api GET /health
}

submit() {
    job=$(api POST /jobs "{\"image\": \"rc-test/busybox:1\", \"memory\": \"32MiB\", \"command\": [\"sh\", \"-c\", \"$1\"]}" | jq -r .id)
    [ -n "$job" ] || fail 'the job was refused'
}

job_is() {
    [ "$(api GET "/jobs/$job" | jq -r .state)" = "$1" ]
}

containers() {
    docker ps --quiet --filter "label=runner-coordinator.job=$job"
}

same_container() {
    [ "$(containers)" = "$container" ]
}

# A job that ends when it is told to, by a file in its container.
begin_job() {
    submit 'until [ -e /tmp/end ]; do sleep 0.2; done; echo was told to end'
    soon 'a job runs' job_is running
    container=$(containers)
    [ -n "$container" ] || fail 'its container is not there'
}

end_job() {
    docker exec "$container" touch /tmp/end
    soon 'the job ends well' job_is succeeded
    must 'its log is whole' test "$(api GET "/jobs/$job/logs")" = 'was told to end'
}

adopted() {
    api GET "/jobs/$job/events" | grep adopted >/dev/null
}

package() {
    local binary=$directory/runner-coordinator
    install -m 755 "${RC_DIST_BIN:-$(target_directory)/debug/runner-coordinator}" "$binary"
    strip --strip-all "$binary"
    version=$(our_version)
    export RC_DEB_COMPRESSION=gzip
    first=$(tests/make/deb.sh "$binary" "$(dpkg --print-architecture)" "$version" "$directory/packages")
    second=$(tests/make/deb.sh "$binary" "$(dpkg --print-architecture)" "$version+next" "$directory/packages")
    again=$(tests/make/deb.sh "$binary" "$(dpkg --print-architecture)" "$version" "$directory/again")
    cmp "$first" "$again" || fail 'the same input gives another package'
    first=$(basename "$first") second=$(basename "$second")
    note "$first, made twice with the same bytes, and $second"
}

installed() {
    cp "$directory/packages/$1" "$machine/packages/"
    inside dpkg --install "/packages/$1" >"$directory/dpkg.log" 2>&1 || { cat "$directory/dpkg.log" >&2 && fail "dpkg does not install $1"; }
}

installs() {
    step "Installing $first"
    installed "$first"
    must 'the service is active: systemd was told that it is ready' is "$unit" ActiveState active
    must 'it is the kind that tells' is "$unit" Type notify
    must 'the socket is active' is "$socket" ActiveState active
    must 'both start with the machine' test "$(inside systemctl is-enabled "$unit" "$socket" | sort -u)" = enabled
    soon 'it is healthy' healthy
    soon 'its status tells of jobs and the engine' line_tells
    must 'its user is in the group docker' test "$(inside id -Gn runner-coordinator)" = 'runner-coordinator docker'
    must 'it runs as that user' test "$(inside stat -c %U "/proc/$(property "$unit" MainPID)")" = runner-coordinator
    must 'only root and that group read the configuration' test "$(inside stat -c '%U:%G %a' /etc/runner-coordinator/config.toml)" = 'root:runner-coordinator 640'
    must 'it has one capability, over the network, and cannot get another' one_capability
    must 'units and package are sound' inside systemd-analyze verify --man=no "$unit" "$socket"
}

line_tells() {
    [[ $(property "$unit" StatusText) == '0 running, 0 starting, 0 queued; engine '* ]]
}

one_capability() {
    ! inside grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb):' "/proc/$(property "$unit" MainPID)/status" | grep -vE '0{12}1000$' &&
        inside grep -qE '^NoNewPrivs:[[:space:]]*1' "/proc/$(property "$unit" MainPID)/status"
}

is_hardened() {
    step 'Hardening'
    local report
    report=$(inside systemd-analyze security --no-pager "$unit")
    note "$(tail -n 1 <<<"$report")"
    must 'the exposure is 2.0 or better' awk '/Overall exposure level/ { found = 1; for (i = 1; i <= NF; i++) if ($i ~ /^[0-9.]+$/) exit !($i <= 2.0) } END { if (!found) exit 1 }' <<<"$report"
}

none_failed() {
    ! inside systemctl list-units --failed --quiet --plain | grep .
}

lets_in() {
    step 'The Unix socket'
    inside useradd --system --groups runner-coordinator member
    inside useradd --system stranger
    local me
    me=$(as=member api GET /jobs 2>&1) || fail "a member of the group is not let in: $me"
    note 'a member of the group runner-coordinator is let in'
    ! as=stranger api GET /jobs >/dev/null 2>&1 || fail 'a stranger is let in'
    note 'others are not'
    as=member submit 'echo hello from $(id -u)'
    soon 'a job that an operator submitted there ends well' job_is succeeded
    must 'its log is there' test "$(as=member api GET "/jobs/$job/logs")" = 'hello from 65532'
}

configure() {
    printf '%s\n' "$1" >"$machine/etc/runner-coordinator/config.toml"
}

reads_credentials() {
    step 'Credentials'
    configure '[gitlab]
url = "http://127.0.0.1:9"
webhook.secret_token_file = "webhook-secret"'
    ! inside systemctl restart "$unit" 2>/dev/null || fail 'it starts although its secret is not there'
    note 'without its secret it does not start'
    mkdir -p "$machine/etc/credentials" "$machine/etc/systemd/system/$unit.d"
    (umask 077 && printf 'a secret of this test\n' >"$machine/etc/credentials/webhook")
    printf '[Service]\nLoadCredential=webhook-secret:/etc/credentials/webhook\n' >"$machine/etc/systemd/system/$unit.d/credentials.conf"
    inside systemctl daemon-reload
    must 'with LoadCredential= it does' inside systemctl restart "$unit"
    soon 'it is healthy' healthy
    must 'a webhook with that secret is taken' test "$(webhook 'a secret of this test')" != 401
    must 'one with another is not' test "$(webhook 'another secret')" = 401
}

webhook() {
    inside curl -s -o /dev/null -w '%{http_code}' -X POST http://127.0.0.1:8080/webhook/job -H 'content-type: application/json' \
        -H 'x-gitlab-event: Job Hook' -H "x-gitlab-token: $1" --data-binary '{"object_kind": "build"}'
}

stops_and_adopts() {
    step 'Stop and start'
    begin_job
    must 'systemctl stop ends the daemon' inside systemctl stop "$unit" "$socket"
    must 'it ended in order' is "$unit" Result success
    must 'the container goes on' same_container
    must 'systemctl start brings it back' inside systemctl start "$unit"
    soon 'it adopted the job' adopted
    end_job
}

reloads() {
    step 'Reload'
    local pid
    configure '[[classes]]
name = "default"
image = "rc-test/busybox:1"
memory = "32MiB"'
    inside systemctl restart "$unit"
    soon 'it is healthy' healthy
    pid=$(property "$unit" MainPID)
    must 'a job of a class that is not there is refused' test "$(job_of_class late)" != 202
    configure '[[classes]]
name = "default"
image = "rc-test/busybox:1"
memory = "32MiB"

[[classes]]
name = "late"
image = "rc-test/busybox:1"
memory = "32MiB"'
    must 'systemctl reload is carried out' inside systemctl reload "$unit"
    soon 'then the class is there and takes a job' class_is_there late
    must 'it is the same process' is "$unit" MainPID "$pid"
    configure 'nonsense = 1'
    inside systemctl reload "$unit"
    soon 'a configuration with a fault is named in the journal' named_in_journal nonsense
    must 'and changes nothing' class_is_there late
    must 'the service is active' is "$unit" ActiveState active
    configure '# The defaults serve.'
    inside systemctl reload "$unit"
}

job_of_class() {
    api POST /jobs "{\"class\": \"$1\", \"command\": [\"true\"]}" --write-out '%{http_code}' --output /dev/null 2>/dev/null || true
}

class_is_there() {
    [ "$(job_of_class "$1")" = 202 ]
}

is_activated() {
    step 'Socket activation'
    inside systemctl stop "$unit"
    must 'the service is stopped' is "$unit" ActiveState inactive
    must 'the socket still listens' is "$socket" ActiveState active
    must 'a connection is answered' api GET /jobs
    soon 'it started the service' is "$unit" ActiveState active
    soon 'it is healthy' healthy
}

is_killed_when_it_hangs() {
    step 'The watchdog'
    local pid
    printf '[Service]\nWatchdogSec=3\nTimeoutAbortSec=2\n' >"$machine/etc/systemd/system/$unit.d/watchdog.conf"
    inside systemctl daemon-reload
    inside systemctl restart "$unit"
    soon 'it is healthy' healthy
    begin_job
    pid=$(property "$unit" MainPID)
    sleep_through_watchdog
    must 'it lives longer than the watchdog allows a silent one' is "$unit" MainPID "$pid"
    inside sh -c "kill -STOP $pid"
    soon 'stopped by SIGSTOP it is killed and started anew' is_new "$pid"
    must 'the journal names the watchdog' named_in_journal 'Watchdog timeout'
    must 'the container goes on' same_container
    soon 'the new one is healthy' healthy
    soon 'it adopted the job' adopted
    end_job
    rm "$machine/etc/systemd/system/$unit.d/watchdog.conf"
    inside systemctl daemon-reload
}

# There is nothing to wait for: that nothing happens in this time is what is shown.
sleep_through_watchdog() {
    sleep 5
}

is_new() {
    is "$unit" NRestarts 1 && [ "$(property "$unit" MainPID)" != "$1" ] && is "$unit" ActiveState active
}

named_in_journal() {
    inside journalctl --no-pager --unit "$unit" | grep -- "$1" >/dev/null
}

upgrades() {
    step "Upgrading to $second"
    local before
    printf '\n# a line of the owner\n' >>"$machine/etc/runner-coordinator/config.toml"
    begin_job
    before=$(property "$unit" MainPID)
    installed "$second"
    must 'the new version is installed' test "$(inside dpkg-query --show --showformat '${Version} ${db:Status-Abbrev}' runner-coordinator)" = "$version+next ii "
    must 'the configuration is kept' grep -q 'a line of the owner' "$machine/etc/runner-coordinator/config.toml"
    must 'the service was restarted' test "$(property "$unit" MainPID)" != "$before"
    must 'the service is active' is "$unit" ActiveState active
    must 'the container goes on' same_container
    soon 'the new version is healthy' healthy
    soon 'it adopted the job' adopted
    end_job
}

goes() {
    step 'Removing'
    inside journalctl --no-pager --unit "$unit" >"$directory/journal"
    inside dpkg --remove runner-coordinator >"$directory/dpkg.log" 2>&1 || fail "dpkg does not remove it: $(cat "$directory/dpkg.log")"
    ! inside systemctl is-active "$unit" "$socket" >/dev/null || fail 'a unit is still active'
    must 'configuration and store are kept' test -e "$machine/etc/runner-coordinator/config.toml" -a -e "$machine/var/lib/runner-coordinator/coordinator.db"
    step 'Purging'
    (umask 077 && echo secret >"$machine/etc/runner-coordinator/gitlab-runner-left")
    inside dpkg --purge runner-coordinator >"$directory/dpkg.log" 2>&1 || fail "dpkg does not purge it: $(cat "$directory/dpkg.log")"
    note "$(tail -n 1 "$directory/dpkg.log")"
    for gone in etc/runner-coordinator var/lib/runner-coordinator run/runner-coordinator usr/share/doc/runner-coordinator usr/lib/systemd/system/$unit \
        usr/lib/sysusers.d/runner-coordinator.conf etc/systemd/system/multi-user.target.wants/$unit etc/systemd/system/sockets.target.wants/$socket \
        etc/systemd/system/$unit etc/systemd/system/$socket; do
        ! inside test -e "/$gone" -o -L "/$gone" || fail "/$gone is left"
    done
    note 'nothing of it is left below /etc, /run, /usr and /var'
    ! inside getent passwd runner-coordinator || fail 'its user is left'
    ! inside getent group runner-coordinator || fail 'its group is left'
    note 'its user and group are gone'
    must 'dpkg knows nothing of it any more' test -z "$(inside dpkg-query --show --showformat '${db:Status-Abbrev}' runner-coordinator 2>/dev/null | grep -v '^un')"
    forget_networks <"$directory/journal"
    must 'no unit failed' none_failed
}

package
boot
installs
is_hardened
lets_in
stops_and_adopts
reloads
takes_gitlabs_jobs
is_activated
reads_credentials
is_killed_when_it_hangs
upgrades
goes
step 'All of it is so'
