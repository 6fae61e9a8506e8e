# podman's limits, which need the controllers of the machine.
load common

setup_file() {
    image
    shown podman /etc/containers/containers.conf
    conditions
    podman import --quiet "$BATS_FILE_TMPDIR/image.tar" busybox
}

pid() { podman inspect --format '{{.State.Pid}}' "$1"; }

@test "--memory, --pids-limit, --cpus and --cpuset-cpus; exec, stats, update, pause, kill" {
    podman run -d --name c --memory 64m --memory-swap 80m --pids-limit 20 --cpus 0.5 --cpuset-cpus 0 busybox sleep 1000
    pid=$(pid c)
    cgroup=$(cgroup "$pid")
    [[ $cgroup == */libpod-* && ($MANAGER = cgroupfs || $cgroup == */machine.slice/*.scope*) ]]
    [ "$(limits "$pid")" = "67108864 16777216 20 50000 100000" ]
    [ "$(cat "$cgroup/cpuset.cpus")" = 0 ]
    run -0 podman exec c cat /proc/self/cgroup
    [ "$output" = 0::/ ]
    run -0 podman stats --no-stream --no-reset --format '{{.MemUsage}} {{.PIDs}}' c
    [[ $output == *" / 67.11MB 1" ]]
    podman update --memory 96m --memory-swap 96m --cpus 1 c
    [ "$(limits "$pid")" = "100663296 0 20 100000 100000" ]
    podman pause c
    frozen "$pid"
    podman unpause c
    podman kill c
    [ "$(podman wait c)" = 137 ]
    podman rm c
    [ ! -e "$cgroup" ]
}

@test "more memory than there may be, and more processes" {
    run -137 podman run --rm --memory 16m --memory-swap 16m busybox tail /dev/zero
    run ! podman run --rm --pids-limit 3 busybox sh -c 'sleep 9 & sleep 9 & sleep 9 & sleep 9'
    [[ $output == *"can't fork"* ]]
}

@test "a pod's limits hold for its containers together" {
    podman pod create --name p --memory 64m --cpus 0.5
    podman run -d --pod p --name c busybox sleep 1000
    pod=$(cgroup "$(pid c)")
    [ "$(cat "$pod/memory.max")" = max ]
    until [ "$(cat "$pod/memory.max")" = 67108864 ]; do
        pod=${pod%/*}
        [ "$pod" != /sys/fs/cgroup ]
    done
    [ "$(cat "$pod/cpu.max")" = "50000 100000" ]
    infra=$(pid "$(podman pod inspect --format '{{.InfraContainerID}}' p)")
    [[ $(cgroup "$infra") == "$pod"/* ]]
    run -137 podman run --rm --pod p busybox sh -c 'x=x; while :; do x=$x$x; done' # without a device
    grep -q '^oom_kill [1-9]' "$pod/memory.events"
    [ "$(podman exec c echo on)" = on ]
    podman pod rm --force --time 0 p
    [ ! -e "$pod" ]
}

@test "checkpoint and restore, by an archive too" {
    count() { podman exec counter cat /count; }
    podman run -d --name counter --memory 64m busybox sh -c "$COUNTER"
    soon count
    before=$(count)
    cd "$BATS_TEST_TMPDIR"
    commands podman Checkpoints
    later "$before"
    [ "$(cat "$(cgroup "$(pid counter)")/memory.max")" = 67108864 ]
}

teardown() {
    podman pod rm --all --force --time 0 >/dev/null
    podman rm --all --force --time 0 >/dev/null
}
