# The stock agent of Pacemaker for podman (ocf:heartbeat:podman of resource-agents 4.12) beside our own, called as Pacemaker calls
# them: what each makes of a container that takes its time, and of an image that is one program. What is said here of the stock
# one is what it does, not what it should do.
load common

# image_of NAME DIRECTORY: makes it one of podman's.
image_of() { tar -C "$2" -c . | podman import --quiet - "$1"; }

setup_file() {
    image
    # It serves when it may.
    printf '%s\n' '#!/bin/sh' 'until [ -e /go ]; do sleep 0.1; done' 'exec httpd -f -p 8080 -h /etc' >"$BATS_FILE_TMPDIR/image/slow"
    # A monitor that passes is one that has waited.
    printf '%s\n' '#!/bin/sh' "until $SERVES; do sleep 0.1; done" >"$BATS_FILE_TMPDIR/image/waits"
    chmod 755 "$BATS_FILE_TMPDIR/image"/{slow,waits}
    # busybox is httpd by that name, and nothing else.
    mkdir -p "$BATS_FILE_TMPDIR/single"/{bin,dev,etc,proc,sys}
    cp "$(command -v busybox)" "$BATS_FILE_TMPDIR/single/bin/httpd"
    echo text >"$BATS_FILE_TMPDIR/single/etc/plain"
    shown podman /etc/containers/containers.conf
    conditions
    image_of slow "$BATS_FILE_TMPDIR/image"
    image_of single "$BATS_FILE_TMPDIR/single"
}
SERVES="wget -q -O /dev/null http://127.0.0.1:8080/plain"

# agent PROGRAM ACTION PARAMETER...: one with 20 seconds, or $timeout milliseconds.
agent() {
    local parameters=("${@:3}")
    env OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=c HA_RSCTMP="$BATS_TEST_TMPDIR" OCF_RESKEY_name=c OCF_RESKEY_id=c \
        OCF_RESKEY_CRM_meta_timeout="${timeout:-20000}" "${parameters[@]/#/OCF_RESKEY_}" "$1" "$2" </dev/null 3>&-
}
# stock ACTION: of the container that $given describes, which has no grace.
stock() {
    agent /usr/lib/ocf/resource.d/heartbeat/podman "$1" allow_pull=0 "run_opts=--stop-signal KILL" "${given[@]}"
}
# ours ACTION: of the bundle $bundle.
ours() {
    agent "$BATS_TEST_TMPDIR/shim" "$1" "bundle=$bundle" "directory=$BATS_TEST_TMPDIR/shims" "root=$BATS_TEST_TMPDIR/state"
}
# bundle DIRECTORY PROGRAM...: of the same files, asked from outside, without grace. With another runtime there is no agent of ours.
bundle() {
    [ -e /usr/local/bin/containerd-shim-orlop-v2 ] || skip "this runtime has no agent"
    ln -s /usr/local/bin/containerd-shim-orlop-v2 "$BATS_TEST_TMPDIR/shim"
    bundle=$BATS_TEST_TMPDIR/bundle
    mkdir "$bundle"
    cp -a "$1" "$bundle/rootfs"
    orlop spec --bundle "$bundle"
    printf '%s\n' "${@:2}" | jq --raw-input --null-input --slurpfile config "$bundle/config.json" \
        '[inputs] as $args | $config[0] | .process.args = $args | .process.terminal = false | .root.readonly = false' >"$bundle/new"
    mv "$bundle/new" "$bundle/config.json"
    jq -n '{httpGet: {port: 8080, path: "/plain"}, periodSeconds: 0.2, timeoutSeconds: 2} |
        {startup: (. + {failureThreshold: 1000}), liveness: ., stop: {signal: "KILL"}}' >"$bundle/health.json"
}
# pid and state of the container: podman's, and ours.
podmans() { podman inspect --format '{{.State.Pid}}' c; }
state() { orlop --root "$BATS_TEST_TMPDIR/state" state c | jq -r ".$1"; }
running() { [ "$(state status)" = running ]; }
# serves PID: does it, as the kernel lets anybody in its network ask?
serves() {
    [ "$(nsenter --net="/proc/$1/ns/net" curl --silent --fail --noproxy '*' --max-time 2 http://127.0.0.1:8080/plain)" = text ]
}
is() { # STATUS COMMAND...
    local status=0
    "${@:2}" || status=$?
    [ "$status" = "$1" ]
}

@test "a container that takes its time: the stock agent fails it and leaves it, ours waits" {
    given=(image=slow run_cmd=/slow "monitor_cmd=$SERVES")
    run -1 stock start
    [[ $output == *"ocf-exit-reason:Newly created podman container exited after start"* ]]
    pid=$(podmans)
    [ -e "/proc/$pid" ] # it has not
    # Pacemaker's next call is stop, which ends well
    run -0 stock stop
    [[ $output == *"cannot remove container"*"as it is running"* ]]
    [ -e "/proc/$pid" ]
    podman exec c touch /go
    soon serves "$pid"
    [ "$(podmans)" = "$pid" ]
    run -0 stock monitor
    run -0 stock start
    # nor does stop end what has begun to fail
    podman exec c mv /etc/plain /etc/gone
    run -1 stock monitor
    run -0 stock stop
    [ -e "/proc/$pid" ]
    podman exec c mv /etc/gone /etc/plain
    run -0 stock stop
    [ ! -e "/proc/$pid" ]
    # without a command it asks for no more than a process
    given=(image=slow run_cmd=/slow)
    run -0 stock start
    run ! serves "$(podmans)"
    run -0 stock stop
    # and a command that waits by itself makes it wait
    given=(image=slow run_cmd=/slow monitor_cmd=/waits)
    stock start >/dev/null 2>&1 &
    soon eval '[ "$(podman ps --quiet | wc -l)" = 1 ]'
    pid=$(podmans)
    sleep 1
    kill -0 $!
    nsenter --target "$pid" --root touch /go
    wait $!
    serves "$pid"
    stock stop

    bundle "$BATS_FILE_TMPDIR/image" /slow
    timeout=6500 run -1 ours start
    [[ $output == *"ocf-exit-reason:not ready in its time: starting"* ]]
    pid=$(state pid)
    [ -e "/proc/$pid" ]
    run -0 ours stop
    [ ! -e "/proc/$pid" ]
    ours start &
    soon running
    pid=$(state pid)
    sleep 2
    kill -0 $!
    run -0 ours monitor
    touch "$bundle/rootfs/go"
    wait $!
    serves "$pid"
    [ "$(state pid)" = "$pid" ]
    run -0 ours stop
    [ ! -e "/proc/$pid" ]
    run -7 ours monitor
}

@test "an image that is one program: the stock agent needs that to say how it is, ours asks from outside" {
    [ "$(cd "$BATS_FILE_TMPDIR/single" && find . -type f | sort | xargs)" = "./bin/httpd ./etc/plain" ]
    program=(/bin/httpd -f -p 8080 -h /etc)
    given=(image=single "run_cmd=${program[*]}")
    run -1 stock start
    [[ $output == *'ocf-exit-reason:monitor cmd failed (rc=127)'*/bin/true*"no such file or directory"* ]]
    pid=$(podmans)
    soon serves "$pid"
    run -1 stock monitor
    podman rm --force --time 0 c
    # what it can be asked by is one more use of the program
    given+=("monitor_cmd=/bin/httpd -d something")
    run -0 stock start
    run -0 stock monitor
    run -0 stock stop

    bundle "$BATS_FILE_TMPDIR/single" "${program[@]}"
    run -0 ours start
    pid=$(state pid)
    serves "$pid"
    run -0 ours monitor
    kill -STOP "$pid"
    soon is 1 ours monitor
    run -0 ours stop
    [ ! -e "/proc/$pid" ]
}

teardown() {
    podman rm --all --force --time 0 >/dev/null
    [ -z "${bundle:-}" ] || ours stop
}
