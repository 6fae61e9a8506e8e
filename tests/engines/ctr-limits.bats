# containerd's limits and what it counts, which need the controllers of the machine.
load common
load ctr
load cri

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
    [ "$(jq -c '[.memory.usage_limit, .pids.current]' <<<"$output")" = "[67108864,1]" ]
    [ "$(jq '.cpu.usage_usec > 0 and .memory.usage > 0' <<<"$output")" = true ]
    ctr task pause c
    frozen "$pid"
    ctr task resume c
    ctr task kill --signal KILL c
    soon eval '[ "$(status)" = STOPPED ]'
    ctr task rm c || [ $? = 137 ]
    [ ! -e "$cgroup" ]
}

@test "more memory than there may be is an event" {
    listen
    # the shim hears of it only once it has returned from start, and not when systemd has taken the scope away before it looks
    run -137 once --memory-limit 16777216 -- sh -c 'sleep 2; tail /dev/zero; status=$?; sleep 2; exit $status'
    soon heard /tasks/oom '{"container_id":"c"}'
    kill "$events"
}

@test "a checkpoint, and a container from there" {
    count() { ctr task exec --exec-id "e$RANDOM" counter cat /count; }
    ctr run --detach --memory-limit 67108864 --runc-binary /usr/local/bin/orlop --cgroup "/$MANAGER/counter" localhost/busybox:latest counter sh -c "$COUNTER"
    soon count
    before=$(count)
    commands containerd Checkpoints
    later "$before"
    pid=$(orlop --root /run/containerd/runc/default state counter | jq .pid)
    [ "$(cat "$(cgroup "$pid")/memory.max")" = 67108864 ]
}

@test "a pod of Kubernetes has its cgroup, and a container its limit, which can be changed, and an end for want of memory" {
    pod orlop
    container "$(number 4 67108864)" sleep 1000
    cgroup=$(cgroup "$(orlop --root /run/containerd/runc/k8s.io state "$container" | jq .pid)")
    case $MANAGER in
    systemd) [ "$cgroup" = "/sys/fs/cgroup/kubepods.slice/cri-containerd-$container.scope" ] ;;
    *) [ "$cgroup" = "/sys/fs/cgroup/kubepods/$container" ] ;;
    esac
    [ "$(cat "$cgroup/memory.max")" = 67108864 ]
    cri UpdateContainerResources "$(string 1 "$container")$(message 2 "$(number 4 33554432)")"
    [ "$(cat "$cgroup/memory.max")" = 33554432 ]
    container "$(number 4 16777216)" sh -c 'sleep 2; tail /dev/zero; status=$?; sleep 2; exit $status' # as above
    soon has 3 $EXITED
    has 7 137
    soon has 10 OOMKilled # nor does it tell of the two in this order
    cri StopPodSandbox "$(string 1 "$sandbox")"
    cri RemovePodSandbox "$(string 1 "$sandbox")"
    [ ! -e "$cgroup" ]
}
