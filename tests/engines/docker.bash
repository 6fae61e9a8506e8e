# shellcheck shell=bash
# A dockerd with orlop by the daemon.json of docs/engines/docker.md, for the files that load this.

setup_file() {
    image
    shown docker /etc/docker/daemon.json
    daemon
    docker import "$BATS_FILE_TMPDIR/image.tar" busybox
}

# daemon [OPTION...]: the daemon, as process $BATS_FILE_TMPDIR/pid. A bridge would need the host's packet filter.
daemon() {
    dockerd --experimental --bridge none --iptables=false --ip6tables=false --ip-masq=false "$@" \
        >>"$BATS_FILE_TMPDIR/dockerd.log" 2>&1 3>&- &
    echo $! >"$BATS_FILE_TMPDIR/pid"
    soon docker version >/dev/null
}

# stop: ends the daemon, and with live-restore no container.
stop() {
    kill "$(cat "$BATS_FILE_TMPDIR/pid")"
    soon test ! -e /run/docker.pid
}

pid() { docker inspect --format '{{.State.Pid}}' "$1"; }

teardown() {
    docker ps --all --quiet | xargs --no-run-if-empty docker rm --force >/dev/null
    # of the case that is about another configuration
    if [ -e "$BATS_FILE_TMPDIR/none.json" ]; then
        rm "$BATS_FILE_TMPDIR/none.json"
        stop
        daemon
    fi
}

teardown_file() { stop; }
