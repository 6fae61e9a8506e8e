# The limits of orlop's own shim, and what it counts, which need the controllers of the machine.
load common
load ctr
load cri

# Two of these may run at once (`machine`).
THROUGH=(--runtime io.containerd.orlop.v2 --cgroup "/$MANAGER/c")

@test "--memory-limit and --cpus; metrics, an exec, pause" {
    detached --memory-limit 67108864 --cpus 0.5 -- sleep 1000
    pid=$(pid)
    cgroup=$(cgroup "$pid")
    [ "$cgroup" = "/sys/fs/cgroup/$MANAGER/c" ]
    [ "$(cat "$cgroup/memory.max" "$cgroup/cpu.max" | xargs)" = "67108864 50000 100000" ]
    run -0 ctr task exec --exec-id e c cat /proc/self/cgroup
    [ "$output" = "0::${cgroup#/sys/fs/cgroup}" ]
    run -0 ctr task metrics --format json c
    [ "$(jq -c '[.memory.usage_limit, .pids.current]' <<<"$output")" = "[67108864,1]" ]
    [ "$(jq '.cpu.usage_usec > 0 and .memory.usage > 0' <<<"$output")" = true ]
    ctr task pause c
    frozen "$pid"
    ctr task kill --signal KILL c
    soon eval '[ "$(status)" = STOPPED ]'
    ctr task rm c || [ $? = 137 ]
    [ ! -e "$cgroup" ]
}

@test "more memory than there may be is an event, before the end that it brings" {
    listen
    run -137 once --memory-limit 16777216 -- tail /dev/zero
    soon heard /tasks/delete
    kill "$events"
    [ "$(awk '$6 ~ "^/tasks/" { print substr($6, 8) }' "$heard" | xargs)" = "create start oom exit delete" ]
    heard /tasks/oom '{"container_id":"c"}'
}

@test "a checkpoint, and a container from there" {
    count() { ctr task exec --exec-id "e$RANDOM" counter cat /count; }
    ctr run --detach --memory-limit 67108864 --runtime io.containerd.orlop.v2 --cgroup "/$MANAGER/counter" localhost/busybox:latest counter sh -c "$COUNTER"
    soon count
    before=$(count)
    ctr container checkpoint --rw --task --image counter localhost/counter:first
    ctr task rm --force counter
    ctr container rm counter
    ctr container restore --rw --live counter localhost/counter:first
    later "$before"
    pid=$(orlop --root /run/containerd/orlop/default state counter | jq .pid)
    [ "$(cat "$(cgroup "$pid")/memory.max")" = 67108864 ]
    listen
    ctr task kill --signal KILL counter
    soon heard /tasks/exit '"exit_status":137'
    kill "$events"
}

@test "a pod of Kubernetes has its cgroup, and a container its limit, which can be changed, and an end for want of memory" {
    pod orlop-shim
    container "$(number 4 67108864)" sleep 1000
    cgroup=$(cgroup "$(orlop --root /run/containerd/orlop/k8s.io state "$container" | jq .pid)")
    case $MANAGER in
    systemd) [ "$cgroup" = "/sys/fs/cgroup/kubepods.slice/cri-containerd-$container.scope" ] ;;
    *) [ "$cgroup" = "/sys/fs/cgroup/kubepods/$container" ] ;;
    esac
    [ "$(cat "$cgroup/memory.max")" = 67108864 ]
    cri UpdateContainerResources "$(string 1 "$container")$(message 2 "$(number 4 33554432)")"
    [ "$(cat "$cgroup/memory.max")" = 33554432 ]
    container "$(number 4 16777216)" tail /dev/zero
    soon has 3 $EXITED
    has 7 137
    has 10 OOMKilled
    cri StopPodSandbox "$(string 1 "$sandbox")"
    cri RemovePodSandbox "$(string 1 "$sandbox")"
    [ ! -e "$cgroup" ]
}
