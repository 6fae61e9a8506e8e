# containerd, spoken to by ctr, with orlop as docs/engines/containerd.md has it.
load common
load ctr

@test "the commands of docs/engines/containerd.md" {
    commands containerd
    [ "$MANAGER" != systemd ] || commands containerd "With systemd"
}

@test "run: output and exit status" {
    run -0 once -- echo hello
    [ "$output" = hello ]
    run -3 once -- sh -c 'exit 3'
}

@test "run: what cannot be executed" {
    run -1 once -- absent
    [[ $output == *'exec: "absent": executable file not found in $PATH'* ]]
    run -1 once -- /etc/plain
    [[ $output == *'exec: "/etc/plain": permission denied'* ]]
}

@test "a detached task: exec, ps, pause, resume, metrics, kill, rm" {
    detached -- sleep 1000
    pid=$(pid)
    run -5 ctr task exec --exec-id e c sh -c 'tr "\0" " " </proc/1/cmdline; exit 5'
    [[ $output == *"sleep 1000"* ]]
    run -1 ctr task exec --exec-id f c absent
    [[ $output == *'exec: "absent": executable file not found in $PATH'* ]]
    [[ $(ctr task ps c) == *"$pid"* ]]
    ctr task pause c
    frozen "$pid"
    [ "$(status)" = PAUSED ]
    ctr task resume c
    thawed "$pid"
    run -0 ctr task metrics c
    [[ $output == *pids.current* ]]
    ctr task kill --signal KILL c
    soon eval '[ "$(status)" = STOPPED ]'
    [ ! -e "/proc/$pid" ]
    ctr task rm c || [ $? = 137 ]
    ctr container rm c
    [ -z "$(orlop --root /run/containerd/runc/default list --quiet)" ]
}

@test "events: create, start, exec, pause, exit, delete, in this order" {
    listen
    detached -- sleep 1000
    pid=$(pid)
    ctr task exec --exec-id e c true
    ctr task pause c
    ctr task resume c
    ctr task kill --signal KILL c
    soon heard /tasks/exit '"id":"c"'
    ctr task rm c || [ $? = 137 ]
    soon heard /tasks/delete
    kill "$events"
    [ "$(awk '$6 ~ "^/tasks/" { print substr($6, 8) }' "$heard" | xargs)" = \
        "create start exec-added exec-started exit paused resumed exit delete" ]
    heard /tasks/start "\"pid\":$pid}"
    heard /tasks/exit "\"id\":\"c\",\"pid\":$pid,\"exit_status\":137"
}

@test "signals arrive, and a task is deleted by force" {
    detached -- sh -c 'trap "exit 9" TERM; while :; do sleep 0.1; done'
    soon grep -qi "^SigCgt:.*[4-7c-f]...$" "/proc/$(pid)/status" # bit 14
    ctr task kill --signal TERM c
    soon eval '[ "$(status)" = STOPPED ]'
    run ctr task rm c
    [[ $output == *"9"* ]]
    ctr container rm c
    detached -- sleep 1000
    pid=$(pid)
    ctr task rm --force c || true
    soon test ! -e "/proc/$pid"
}

@test "a terminal for run and for exec" {
    shares=$(grep -qw cpu /sys/fs/cgroup/cgroup.controllers || echo --cpu-shares 0)
    run -6 terminal "ctr run --rm --tty --runc-binary /usr/local/bin/orlop $shares localhost/busybox:latest c sh -c 'tty; exit 6'"
    [[ $output == */dev/pts/0* ]]
    detached -- sleep 1000
    run -5 terminal "ctr task exec --tty --exec-id e c sh -c 'tty; exit 5'"
    [[ $output == */dev/pts/0* ]]
    [[ $(typed "ctr task exec --tty --exec-id f c sh -c '$TALK'") == *"<word>"*"33 44"* ]]
}

@test "--read-only, --mount and --device" {
    mkdir "$BATS_TEST_TMPDIR/volume"
    run -0 once --read-only --mount "type=bind,src=$BATS_TEST_TMPDIR/volume,dst=/mnt,options=rbind:rw" -- \
        sh -c '! touch /made && touch /mnt/made'
    [ -e "$BATS_TEST_TMPDIR/volume/made" ]
    run -1 once --mount "type=bind,src=$BATS_TEST_TMPDIR/volume,dst=/mnt,options=rbind:ro" -- touch /mnt/other
    [[ $output == *"Read-only file system"* ]]
    run -0 once --device /dev/fuse -- stat -c '%t %T' /dev/fuse
    [ "$output" = "a e5" ]
}

@test "--uidmap, --net-host and --no-pivot" {
    run -0 once --uidmap 0:100000:1000 --gidmap 0:100000:1000 -- cat /proc/self/uid_map
    [ "$(echo $output)" = "0 100000 1000" ]
    run -0 once --net-host -- readlink /proc/self/ns/net
    [ "$output" = "$(readlink /proc/self/ns/net)" ]
    run -0 once --no-pivot -- echo inside
    [ "$output" = inside ]
}

@test "--privileged, --cap-drop and --seccomp" {
    run -0 once --privileged -- grep ^CapEff: /proc/self/status
    [ "${output: -10}" = "$(grep ^CapEff: /proc/self/status | tail -c 11)" ]
    run -0 once --cap-drop CAP_CHOWN -- grep ^CapEff: /proc/self/status
    (( (16#${output: -16} & 1) == 0 ))
    run -0 once --seccomp -- grep ^Seccomp: /proc/self/status
    [[ $output == *2 ]]
}
