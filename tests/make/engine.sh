#!/usr/bin/env bash
# Makes sure that an engine answers: the one at DOCKER_HOST or at its usual socket, else systemd's, else one of our own.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

step "Looking for an engine at $(engine_address)"

if ! engine_answers; then
    [ -z "${DOCKER_HOST:-}" ] || [ "$DOCKER_HOST" = unix:///var/run/docker.sock ] || fail "no engine answers at DOCKER_HOST=$DOCKER_HOST"
    [ "$(id -u)" = 0 ] || fail 'no engine answers this user; start Docker, or join the group docker, or run this as root'
    if [ -d /run/systemd/system ]; then
        note 'none answers: systemctl start docker'
        systemctl start docker || fail 'systemd could not start docker; systemctl status docker tells more'
        until_true 60 engine_answers || fail 'docker was started and does not answer; journalctl -u docker tells more'
    else
        note 'none answers, and no systemd runs here: starting dockerd; its log is .run/dockerd.log'
        begin dockerd dockerd
        alive_and_answering() {
            pid_of dockerd >/dev/null || died dockerd 'dockerd ended'
            engine_answers
        }
        until_true 60 alive_and_answering || died dockerd 'dockerd does not answer'
    fi
fi
note "Docker $(docker version --format '{{.Server.Version}} ({{.Server.Os}}/{{.Server.Arch}})')"
