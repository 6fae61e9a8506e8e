# containerd's limits and what it counts, which need the controllers of the machine.
load common
load ctr

@test "--memory-limit and --cpus; metrics, an exec, pause" {
    detached --memory-limit 67108864 --cpus 0.5 -- sleep 1000
    pid=$(pid)
    cgroup=$(cgroup "$pid")
    case $MANAGER in
    systemd) [ "$cgroup" = /sys/fs/cgroup/system.slice/ctr-c.scope ] ;;
    *) [ "$cgroup" = /sys/fs/cgroup/default/c ] ;;
    esac
    [ "$(cat "$cgroup/memory.max" "$cgroup/cpu.max" | xargs)" = "67108864 50000 100000" ]
    run -0 ctr task exec --exec-id e c cat /proc/self/cgroup
    [ "$output" = "0::${cgroup#/sys/fs/cgroup}" ]
    run -0 ctr task metrics --format json c
    [ "$(jq .memory.usage_limit <<<"$output")" = 67108864 ]
    ctr task pause c
    frozen "$pid"
    ctr task resume c
    ctr task kill --signal KILL c
    soon eval '[ "$(status)" = STOPPED ]'
    ctr task rm c || [ $? = 137 ]
    [ ! -e "$cgroup" ]
}

@test "more memory than there may be is an event" {
    ctr events >"$BATS_TEST_TMPDIR/events" 3>&- &
    events=$!
    # the shim hears of it only once it has returned from start
    run -137 once --memory-limit 16777216 -- sh -c 'sleep 2; exec tail /dev/zero'
    soon grep -q ' /tasks/oom {"container_id":"c"}' "$BATS_TEST_TMPDIR/events"
    kill "$events"
}
