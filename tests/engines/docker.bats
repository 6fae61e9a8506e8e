# docker with orlop by the daemon.json of docs/engines/docker.md.
load common
load docker

@test "the commands of docs/engines/docker.md" {
    commands docker
}

@test "run: output, input and exit status" {
    run -0 docker run --rm busybox echo hello
    [ "$output" = hello ]
    run -3 docker run --rm --runtime orlop busybox sh -c 'exit 3'
    [ "$(echo words | docker run --rm -i busybox cat)" = words ]
}

@test "run: what cannot be executed" {
    run -127 docker run --rm busybox absent
    [[ $output == *'exec: "absent": executable file not found in $PATH'* ]]
    run -127 docker run --rm busybox /absent
    run -126 docker run --rm busybox /etc/plain
    [[ $output == *'exec: "/etc/plain": permission denied'* ]]
}

@test "run: a script whose interpreter is missing" {
    script=$BATS_TEST_TMPDIR/script
    echo '#!/absent' >"$script" && chmod +x "$script"
    run -127 docker run --name c1 --restart always -v "$script:/script:ro" busybox /script
    [[ $output == */absent* ]]
    [ "$(docker inspect --format '{{.State.Status}} {{.RestartCount}}' c1)" = "created 0" ]
}

@test "a runtime by the daemon's own option" {
    echo '{}' >"$BATS_FILE_TMPDIR/none.json"
    stop
    daemon --config-file "$BATS_FILE_TMPDIR/none.json" --add-runtime other=/usr/local/bin/orlop
    run -0 docker run --rm --runtime other busybox echo hello
    [ "$output" = hello ]
    [ "$(docker info --format '{{.Runtimes.other.Path}} {{.DefaultRuntime}}')" = "/usr/local/bin/orlop runc" ]
}

@test "a detached container: exec, logs, top, stats, pause, kill, rm" {
    docker run -d --name c1 busybox sh -c 'echo begun; exec sleep 1000'
    pid=$(pid c1)
    run -7 docker exec c1 sh -c 'tr "\0" " " </proc/1/cmdline; exit 7'
    [ "$output" = "sleep 1000 " ]
    run -126 docker exec c1 absent
    run -0 docker exec --user 1000 --workdir /tmp c1 sh -c 'echo "$(id -u) $(pwd)"'
    [ "$output" = "1000 /tmp" ]
    soon test "$(docker logs c1)" = begun
    [[ $(docker top c1) == *"sleep 1000"* ]]
    [ "$(docker stats --no-stream --format '{{.Name}}' c1)" = c1 ]
    docker pause c1
    frozen "$pid"
    run -1 docker exec c1 true
    docker unpause c1
    thawed "$pid"
    docker kill c1
    [ "$(docker wait c1)" = 137 ]
    [ ! -e "/proc/$pid" ]
    docker rm c1
}

@test "a terminal for run and for exec" {
    run -6 terminal "docker run --rm -it busybox sh -c 'tty; exit 6'"
    [[ $output == */dev/pts/0* ]]
    docker run -d --name c1 busybox sleep 1000
    run -5 terminal "docker exec -it c1 sh -c 'tty; exit 5'"
    [[ $output == */dev/pts/0* ]]
    for verb in "run --rm -it busybox" "exec -it c1"; do
        [[ $(typed "docker $verb sh -c '$TALK'") == *"<word>"*"33 44"* ]]
    done
}

@test "stop with a timeout, start, restart, rm --force" {
    docker run -d --name c1 busybox sh -c 'trap : TERM; while :; do sleep 0.1; done'
    docker stop --time 1 c1
    [ "$(docker inspect --format '{{.State.ExitCode}}' c1)" = 137 ]
    docker start c1
    first=$(pid c1)
    docker restart --time 0 c1
    [ "$(pid c1)" != "$first" ] && [ ! -e "/proc/$first" ]
    docker rm --force c1
}

@test "a restart policy" {
    docker run -d --name c1 --restart on-failure:2 busybox sh -c 'echo once; exit 1'
    soon eval '[ "$(docker logs c1 | wc -l)" = 3 ]'
    soon eval '[ "$(docker inspect --format "{{.RestartCount}} {{.State.Status}}" c1)" = "2 exited" ]'
}

@test "the policies always and unless-stopped, and the daemon started anew" {
    for each in always unless-stopped; do
        docker run -d --name $each --restart $each busybox sh -c 'echo once; sleep 0.2'
        docker run -d --name "$each-stopped" --restart $each busybox sleep 1000
    done
    for each in always unless-stopped; do
        soon eval '[ "$(docker logs $each | wc -l)" -ge 2 ]'
        docker stop --time 0 "$each-stopped"
        [ "$(docker inspect --format '{{.State.Status}}' "$each-stopped")" = exited ]
    done
    docker rm --force always unless-stopped
    stop
    daemon
    soon eval '[ "$(docker inspect --format "{{.State.Status}}" always-stopped)" = running ]'
    [ "$(docker exec always-stopped echo again)" = again ]
    [ "$(docker inspect --format '{{.State.Status}} {{.State.Pid}}' unless-stopped-stopped)" = "exited 0" ]
}

@test "a container lives on while the daemon is started anew" {
    docker run -d --name c1 busybox sleep 1000
    pid=$(pid c1)
    stop
    [ -e "/proc/$pid" ]
    daemon
    [ "$(pid c1)" = "$pid" ]
    [ "$(docker exec c1 echo still)" = still ]
    docker stop --time 0 c1
    [ "$(docker inspect --format '{{.State.ExitCode}}' c1)" = 137 ]
}

@test "--init" {
    run -0 docker run --rm --init busybox sh -c 'tr "\0" " " </proc/1/cmdline'
    [[ $output == "/sbin/docker-init -- "* ]]
}

@test "--read-only, --tmpfs and --volume" {
    mkdir "$BATS_TEST_TMPDIR/volume"
    run -0 docker run --rm --read-only --tmpfs /mnt -v "$BATS_TEST_TMPDIR/volume:/volume" busybox \
        sh -c '! touch /made && touch /mnt/made /volume/made'
    [ -e "$BATS_TEST_TMPDIR/volume/made" ]
    run -1 docker run --rm -v "$BATS_TEST_TMPDIR/volume:/volume:ro" busybox touch /volume/other
    [[ $output == *"Read-only file system"* ]]
}

@test "--user, --workdir, --hostname and --net" {
    run -0 docker run --rm --user 1000 --workdir /tmp --hostname inside busybox sh -c 'echo "$(id -u) $(pwd) $(hostname)"'
    [ "$output" = "1000 /tmp inside" ]
    [ "$(docker run --rm --net host busybox readlink /proc/self/ns/net)" = "$(readlink /proc/self/ns/net)" ]
}

@test "--cap-drop, --security-opt and --device" {
    run -0 docker run --rm --cap-drop ALL --cap-add CHOWN busybox grep ^CapEff: /proc/self/status
    [[ $output == *0000000000000001 ]]
    run -0 docker run --rm --security-opt no-new-privileges busybox grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status
    [ "$(echo $output)" = "NoNewPrivs: 1 Seccomp: 2" ]
    run -0 docker run --rm --security-opt seccomp=unconfined busybox grep ^Seccomp: /proc/self/status
    [[ $output == *0 ]]
    run -0 docker run --rm --device /dev/fuse busybox stat -c '%t %T' /dev/fuse
    [ "$output" = "a e5" ]
}

@test "--sysctl, --ulimit and --cgroupns host" {
    run -0 docker run --rm --sysctl net.ipv4.ip_default_ttl=33 --net none --ulimit nofile=100:200 busybox \
        sh -c 'cat /proc/sys/net/ipv4/ip_default_ttl; ulimit -n; ulimit -Hn'
    [ "$(echo $output)" = "33 100 200" ]
    run -0 docker run --rm --cgroupns host busybox cat /proc/self/cgroup
    [[ $output == *"0::/docker/"* || ( ${MANAGER:-} == systemd && $output == *"0::/system.slice/docker-"*.scope* ) ]]
}

@test "a health check" {
    docker run -d --name c1 --health-cmd 'test -e /healthy' --health-interval 0.2s --health-retries 100 busybox sleep 1000
    docker exec c1 touch /healthy
    soon eval '[ "$(docker inspect --format "{{.State.Health.Status}}" c1)" = healthy ]'
}

@test "build" {
    printf 'FROM busybox\nRUN echo built >/made\nUSER 1000\nRUN id -u >/tmp/id\n' >"$BATS_TEST_TMPDIR/Dockerfile"
    DOCKER_BUILDKIT=0 docker build --quiet --network none --tag built "$BATS_TEST_TMPDIR"
    run -0 docker run --rm built cat /made /tmp/id
    [ "$(echo $output)" = "built 1000" ]
}
