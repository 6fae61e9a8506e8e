# podman with orlop by the configuration of docs/engines/podman.md.
load common

setup_file() {
    image
    shown podman /etc/containers/containers.conf
    conditions
    podman import --quiet "$BATS_FILE_TMPDIR/image.tar" busybox
}

pid() { podman inspect --format '{{.State.Pid}}' "$1"; }

@test "the commands of docs/engines/podman.md" {
    commands podman
}

@test "run: output, input and exit status" {
    run -0 podman run --rm busybox echo hello
    [ "$output" = hello ]
    run -3 podman run --rm busybox sh -c 'exit 3'
    [ "$(echo words | podman run --rm -i busybox cat)" = words ]
}

@test "run: what cannot be executed" {
    run -127 podman run --rm busybox absent
    [[ $output == *'executable file not found in $PATH'* ]]
    run -127 podman run --rm busybox /absent
    run -126 podman run --rm busybox /etc/plain
    [[ $output == *"permission denied"* ]]
    run -126 podman run --rm busybox /etc
}

@test "run and exec: a script whose interpreter is missing" {
    script=$BATS_TEST_TMPDIR/script
    echo '#!/absent' >"$script" && chmod +x "$script"
    run -126 podman run --rm -v "$script:/script:ro" busybox /script
    [[ $output == */absent* ]]
    podman run -d --name c -v "$script:/script:ro" busybox sleep 1000
    run -127 podman exec c /script
    [[ $output == */absent* ]]
}

@test "a detached container: exec, logs, pause, kill, rm" {
    podman run -d --name c busybox sh -c 'echo begun; exec sleep 1000'
    pid=$(pid c)
    [ "$(podman exec c sh -c 'tr "\0" " " </proc/1/cmdline')" = "sleep 1000 " ]
    soon test "$(podman logs c)" = begun
    podman pause c
    frozen "$pid"
    [ "$(podman inspect --format '{{.State.Status}}' c)" = paused ]
    podman unpause c
    thawed "$pid"
    podman kill c
    [ "$(podman wait c)" = 137 ]
    [ ! -e "/proc/$pid" ]
    podman rm c
    run -1 podman container exists c
    [ -z "$(orlop list --quiet)" ]
}

@test "exec: exit status, user, directory, what cannot be executed" {
    podman run -d --name c busybox sleep 1000
    run -7 podman exec c sh -c 'exit 7'
    run -127 podman exec c absent
    run -126 podman exec c /etc/plain
    run -126 podman exec c /etc
    [ "$(podman exec --env TERM=other c env | grep ^TERM=)" = TERM=other ]
    run -0 podman exec --user 1000 --workdir /tmp --env A=b c sh -c 'echo "$(id -u) $(pwd) $A"'
    [ "$output" = "1000 /tmp b" ]
    podman exec -d c touch /made
    soon podman exec c test -e /made
}

@test "a terminal for run and for exec" {
    run -6 terminal "podman run --rm -it busybox sh -c 'test -t 0 && test -t 2 && tty; exit 6'"
    [[ $output == */dev/pts/0* ]]
    podman run -d --name c busybox sleep 1000
    run -5 terminal "podman exec -it c sh -c 'test -t 1 && tty; exit 5'"
    [[ $output == */dev/pts/0* ]]
    for verb in "run --rm -it busybox" "exec -it c"; do
        [[ $(typed "podman $verb sh -c '$TALK'") == *"<word>"*"33 44"* ]]
    done
}

@test "stop with a timeout, start, restart, rm --force" {
    podman run -d --name c busybox sh -c 'trap : TERM; while :; do sleep 0.1; done'
    podman stop --time 1 c
    [ "$(podman inspect --format '{{.State.ExitCode}}' c)" = 137 ]
    podman start c
    first=$(pid c)
    podman restart --time 0 c
    [ "$(pid c)" != "$first" ] && [ ! -e "/proc/$first" ]
    podman rm --force --time 0 c
    podman run -d --name d busybox sh -c 'trap "exit 9" TERM; while :; do sleep 0.1; done'
    podman stop --time 10 d
    [ "$(podman inspect --format '{{.State.ExitCode}}' d)" = 9 ]
}

@test "a restart policy" {
    podman run -d --name c --restart on-failure:2 busybox sh -c 'echo once; exit 1'
    soon eval '[ "$(podman logs c | wc -l)" = 3 ]'
    [ "$(podman inspect --format '{{.RestartCount}} {{.State.ExitCode}}' c)" = "2 1" ]
}

@test "the policy always, until it is stopped" {
    # the third run lasts: of one that has just ended podman forgets that it is to be stopped, and starts it once more
    podman run -d --name c --restart always busybox sh -c 'echo once | tee -a /runs; [ "$(wc -l </runs)" -lt 3 ] || exec sleep 100'
    soon eval '[ "$(podman logs c | wc -l)" = 3 ]'
    [ "$(podman inspect --format '{{.RestartCount}}' c)" = 2 ]
    podman stop --time 0 c
    sleep 1
    [ "$(podman logs c | wc -l) $(podman inspect --format '{{.State.Status}}' c)" = "3 exited" ]
}

@test "--preserve-fds" {
    echo words >"$BATS_TEST_TMPDIR/words"
    run -0 eval 'podman run --rm --preserve-fds 2 busybox sh -c "cat <&4; readlink /proc/self/fd/3; ls /proc/self/fd" 3</dev/null 4<"$BATS_TEST_TMPDIR/words" 5</dev/zero 6</dev/zero'
    [ "$(echo $output)" = "words /dev/null 0 1 2 3 4 5" ] # the last is what ls reads
    run -0 podman run --rm busybox sh -c 'test ! -e /proc/self/fd/4'
}

@test "create, and start --attach" {
    podman create --name c busybox sh -c 'echo attached; exit 4'
    run -4 podman start --attach c
    [[ $output == *attached* ]]
}

@test "--init" {
    run -0 podman run --rm --init busybox sh -c 'tr "\0" " " </proc/1/cmdline'
    [[ $output == "/run/podman-init -- "* ]]
}

@test "--read-only and --tmpfs" {
    run -0 podman run --rm --read-only --tmpfs /mnt:size=1m,mode=700 busybox \
        sh -c '! touch /made && touch /mnt/made && stat -c %a /mnt && grep " /mnt " /proc/self/mountinfo'
    [[ $output == *700*"size=1024k"* ]]
}

@test "--uidmap and --userns auto" {
    run -0 podman run --rm --uidmap 0:100000:1000 --gidmap 0:100000:1000 busybox \
        sh -c 'cat /proc/self/uid_map; touch /made && stat -c %u /made'
    [ "$(echo $output)" = "0 100000 1000 0" ]
    echo containers:400000:100000 | tee -a /etc/subuid >>/etc/subgid
    run -0 podman run --rm --userns auto:size=1000 busybox cat /proc/self/uid_map
    [ "$(echo $output)" = "0 400000 1000" ]
}

@test "--security-opt seccomp and no-new-privileges" {
    echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}' >"$BATS_TEST_TMPDIR/profile"
    run -0 podman run --rm --security-opt "seccomp=$BATS_TEST_TMPDIR/profile" --security-opt no-new-privileges busybox \
        sh -c '! mkdir /made && grep -E "^(Seccomp|NoNewPrivs):" /proc/self/status'
    [[ $output == *"Function not implemented"* ]]
    [[ $(echo $output) == *"NoNewPrivs: 1 Seccomp: 2"* ]]
    run -0 podman run --rm --security-opt seccomp=unconfined busybox grep ^Seccomp: /proc/self/status
    [[ $output == *0 ]]
}

@test "--cap-drop, --cap-add and --privileged" {
    run -0 podman run --rm --cap-drop ALL --cap-add CHOWN busybox grep -E '^Cap(Eff|Bnd):' /proc/self/status
    [ "$(echo $output)" = "CapEff: 0000000000000001 CapBnd: 0000000000000001" ]
    run -0 podman run --rm --privileged busybox grep ^CapEff: /proc/self/status
    [ "${output: -10}" = "$(grep ^CapEff: /proc/self/status | tail -c 11)" ]
}

@test "--device" {
    run -0 podman run --rm --device /dev/fuse:/dev/mine:r busybox \
        sh -c 'stat -c "%F %t %T" /dev/mine; (: </dev/mine) && echo read; (: >/dev/mine) || echo denied'
    [[ $output == *"character special file a e5"*read*denied* ]]
}

@test "--user, --workdir, --umask and --group-add" {
    run -0 podman run --rm --user 1000:1000 --workdir /tmp --umask 0077 --group-add 77 busybox \
        sh -c 'echo "$(id -u) $(id -G) $(pwd) $(umask) $HOME"'
    [ "$output" = "1000 1000 77 /tmp 0077 /tmp" ]
}

@test "--volume" {
    mkdir "$BATS_TEST_TMPDIR/volume"
    run -0 podman run --rm -v "$BATS_TEST_TMPDIR/volume:/volume" busybox touch /volume/made
    run -1 podman run --rm -v "$BATS_TEST_TMPDIR/volume:/volume:ro" busybox touch /volume/other
    [[ $output == *"Read-only file system"* ]]
    [ "$(ls "$BATS_TEST_TMPDIR/volume")" = made ]
    run -0 podman run --rm -v named:/volume busybox touch /volume/made
    [ "$(podman run --rm -v named:/volume busybox ls /volume)" = made ]
}

@test "--hostname, --net, --pid, --ipc and --uts" {
    [ "$(podman run --rm --hostname inside busybox hostname)" = inside ]
    [ "$(podman run --rm --net host busybox readlink /proc/self/ns/net)" = "$(readlink /proc/self/ns/net)" ]
    run -0 podman run --rm --net none busybox ip -o link
    [ "${#lines[@]}" = 1 ] && [[ $output == *LOOPBACK,UP* ]]
    run -0 podman run --rm --pid host --ipc host --uts host busybox \
        sh -c 'for kind in pid ipc uts; do readlink /proc/self/ns/$kind; done'
    [ "$output" = "$(readlink /proc/self/ns/{pid,ipc,uts})" ]
}

@test "--sysctl, --oom-score-adj, --shm-size and --ulimit" {
    run -0 podman run --rm --sysctl net.ipv4.ip_default_ttl=33 --oom-score-adj 500 --shm-size 2m --ulimit nofile=100:200 \
        --ulimit nproc=100:100 busybox \
        sh -c 'cat /proc/sys/net/ipv4/ip_default_ttl /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; grep " /dev/shm " /proc/self/mountinfo'
    [[ $(echo $output) == "33 500 100 200 "*size=2048k* ]]
}

@test "a pod without an infra container" {
    podman pod create --name p --infra=false
    podman run -d --pod p --name c busybox sleep 1000
    run -0 podman run --rm --pod p busybox echo inside
    [ "$output" = inside ]
    podman pod pause p
    frozen "$(pid c)"
    podman pod unpause p
    podman pod rm --force --time 0 p
    [ -z "$(podman ps --all --quiet)" ]
}

@test "a pod with an infra container: what is shared, stop, start, rm" {
    namespace() { readlink "/proc/$1/ns/$2"; }
    pids() { pids=("$(pid "$(podman pod inspect --format '{{.InfraContainerID}}' p)")" "$(pid c)" "$(pid d)"); }
    together() { # the containers have the infra container's namespaces, and mounts of their own
        for kind in ipc uts pid; do
            [ "$(for each in "${pids[@]}"; do namespace "$each" $kind; done | uniq -c | awk '{ print $1 }')" = 3 ]
            [ "$(namespace "${pids[0]}" $kind)" != "$(namespace self $kind)" ]
        done
        [ "$(for each in "${pids[@]}"; do namespace "$each" mnt; done | sort -u | wc -l)" = 3 ]
    }
    gone() { for each in "${pids[@]}"; do [ ! -e "/proc/$each" ]; done; }
    # podman's own cgroup for a pod, of which docs/engines/podman.md tells
    apart=() && [ "$MANAGER" = systemd ] || apart=(--share-parent=false)
    podman pod create --name p --share ipc,uts,pid --hostname pods "${apart[@]}"
    for each in c d; do podman create --pod p --name $each busybox sleep 1000; done
    podman pod start p
    pids && together
    [[ $(tr '\0' ' ' <"/proc/${pids[0]}/cmdline") == */catatonit* ]]
    [ "$(podman exec d sh -c 'echo lost >/dev/null && hostname')" = pods ]
    [ "$(podman exec c ps -o args | grep -c '^sleep 1000')" = 2 ]
    podman pod stop --time 1 p
    gone
    [ "$(podman pod inspect --format '{{.State}}' p)" = Exited ]
    podman pod start p
    pids && together
    run ! podman pod rm p
    podman pod rm --force --time 0 p
    gone
    [ -z "$(podman ps --all --quiet)" ]
    [ -z "$(orlop list --quiet)" ]
}

@test "a health check" {
    podman run -d --name c --health-cmd 'test -e /healthy' --health-interval disable busybox sleep 1000
    run -1 podman healthcheck run c
    podman exec c touch /healthy
    run -0 podman healthcheck run c
}

@test "top and stats" {
    podman run -d --name c busybox sleep 1000
    run -0 podman top c args
    [[ $output == *"sleep 1000"* ]]
    run -0 podman stats --no-stream --format '{{.Name}}' c
    [[ $output == *c ]]
}

@test "build" {
    printf 'FROM busybox\nRUN echo built >/made\nUSER 1000\nRUN id -u >/tmp/id\n' >"$BATS_TEST_TMPDIR/Containerfile"
    podman build --quiet --tag built "$BATS_TEST_TMPDIR"
    run -0 podman run --rm built cat /made /tmp/id
    [ "$(echo $output)" = "built 1000" ]
}

@test "an ordinary user" {
    useradd --create-home --home-dir /run/ordinary ordinary
    install -d -o ordinary "/run/user/$(id -u ordinary)"
    chmod 644 "$BATS_FILE_TMPDIR/image.tar"
    chmod 755 "$BATS_RUN_TMPDIR" "$BATS_FILE_TMPDIR"
    cd /run/ordinary
    as() {
        env -i PATH="$PATH" HOME=/run/ordinary XDG_RUNTIME_DIR="/run/user/$(id -u ordinary)" \
            setpriv --reuid ordinary --regid ordinary --init-groups --inh-caps=-all "$@"
    }
    as podman import --quiet "$BATS_FILE_TMPDIR/image.tar" busybox
    run -0 as podman run --rm busybox cat /proc/self/uid_map
    [[ $(echo $output) == *"0 $(id -u ordinary) 1 1 "* ]]
    run -0 as podman run --rm --userns keep-id busybox id -u
    [[ $output == *"$(id -u ordinary)" ]]
    run -127 as podman run --rm busybox absent
    mkdir -m 700 volume
    chown ordinary volume
    run -0 as podman run --rm --userns keep-id -v /run/ordinary/volume:/volume busybox touch /volume/made
    [ "$(stat -c %U volume/made)" = ordinary ]
    as podman run -d --name c busybox sleep 1000
    run -7 as podman exec c sh -c 'exit 7'
    [ -d "/run/user/$(id -u ordinary)/orlop" ] || [ -d "/run/user/$(id -u ordinary)/runc" ]
    as podman kill c
    [ "$(as podman wait c)" = 137 ]
    as podman rm c
}

teardown() {
    podman pod rm --all --force --time 0 >/dev/null
    podman rm --all --force --time 0 >/dev/null
}
