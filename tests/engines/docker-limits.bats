# docker's limits, which need the controllers of the machine.
load common
load docker

@test "--memory, --pids-limit, --cpus and --cpuset-cpus; exec, stats, update, pause, stop" {
    docker run -d --name c1 --memory 64m --memory-swap 80m --pids-limit 20 --cpus 0.5 --cpuset-cpus 0 busybox sleep 1000
    pid=$(pid c1)
    cgroup=$(cgroup "$pid")
    case $MANAGER in
    systemd) [[ $cgroup == /sys/fs/cgroup/system.slice/docker-*.scope ]] ;;
    *) [[ $cgroup == /sys/fs/cgroup/docker/* ]] ;;
    esac
    [ "$(limits "$pid")" = "67108864 16777216 20 50000 100000" ]
    [ "$(cat "$cgroup/cpuset.cpus")" = 0 ]
    run -0 docker exec c1 cat /proc/self/cgroup
    [ "$output" = 0::/ ]
    run -0 docker stats --no-stream --format '{{.MemUsage}} {{.PIDs}}' c1
    [[ $output == *" / 64MiB 1" ]]
    docker update --memory 96m --memory-swap 96m --pids-limit 30 --cpus 1 c1
    [ "$(limits "$pid")" = "100663296 0 30 100000 100000" ]
    docker pause c1
    frozen "$pid"
    docker unpause c1
    docker stop --time 0 c1
    [ "$(docker inspect --format '{{.State.ExitCode}}' c1)" = 137 ]
    [ ! -e "$cgroup" ]
}

@test "a container keeps its limits while the daemon is started anew" {
    docker run -d --name c1 --memory 64m --memory-swap 64m busybox sleep 1000
    pid=$(pid c1)
    stop
    [ "$(cat "$(cgroup "$pid")/memory.max")" = 67108864 ]
    daemon
    docker update --memory 96m --memory-swap 96m c1
    [ "$(cat "$(cgroup "$pid")/memory.max")" = 100663296 ]
    [ "$(docker exec c1 echo still)" = still ]
}

@test "more memory than there may be" {
    # the shim hears of it only once it has returned from start
    run -137 docker run --name c1 --memory 16m --memory-swap 16m busybox sh -c 'sleep 2; exec tail /dev/zero'
    [ "$(docker inspect --format '{{.State.OOMKilled}}' c1)" = true ]
}

@test "a checkpoint, and a start from there" {
    count() { docker exec counter cat /count; }
    docker run -d --name counter --memory 64m busybox sh -c "$COUNTER"
    soon count
    before=$(count)
    commands docker Checkpoints
    later "$before"
    [ "$(cat "$(cgroup "$(pid counter)")/memory.max")" = 67108864 ]
}
