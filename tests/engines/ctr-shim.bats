# containerd with orlop's own shim, spoken to by ctr.
load common
load ctr
load cri

# Two machines may run this at once (`machine`).
THROUGH=(--runtime io.containerd.orlop.v2 --cgroup "/$MANAGER/c")
# The shim's process: the one parent of the container's first.
shim() { shim_of "$(pid)"; }
shim_of() { awk '$1 == "PPid:" { print $2 }' "/proc/$1/status"; }
bundle() { echo /run/containerd/io.containerd.runtime.v2.task/default/c; }
killed() {
    kill -KILL "$1"
    soon test ! -e "/proc/$1"
}
stopped() { [ "$(status)" = STOPPED ]; }
tasks() { awk '$6 ~ "^/tasks/" { print substr($6, 8) }' "$heard" | xargs; }
# Do events wait for containerd?
told() { [ "$(stat -c %s /run/containerd/s/*.events)" = 8 ]; }
untold() { ! told; }
# The shims of this run; the machine may have another's.
shims() {
    local each
    for each in $(pgrep -f "containerd-shim-orlop-v2 .*${1:-}"); do
        [ ! "/proc/$each/ns/mnt" -ef /proc/self/ns/mnt ] || echo "$each"
    done
}
# Nothing is left: no task, no shim, no state, no mount, no socket.
gone() {
    [ "$(ctr task ls | wc -l)" = 1 ] && [ -z "$(shims)" ] &&
        [ -z "$(ls /run/containerd/orlop/default /run/containerd/s 2>/dev/null | grep -v :)" ] &&
        ! grep -q "$(bundle)" /proc/self/mountinfo
}

@test "the commands of docs/engines/containerd.md for this shim" {
    commands containerd "With orlop's own shim"
}

@test "run: output, input and exit status" {
    run -0 once -- echo hello
    [ "$output" = hello ]
    run -3 once -- sh -c 'echo lost >&2; exit 3'
    [ "$output" = lost ]
    # ctr passes no end on that comes before its task is there
    run -0 once -- cat < <(soon eval '[ "$(status)" = RUNNING ]' && echo from here)
    [ "$output" = "from here" ]
    run -0 once -- sh -c 'head -c 3000000 /dev/zero | tr "\0" x'
    [ "${#output}" = 3000000 ]
    soon gone
}

@test "run: what cannot be executed" {
    run -1 once -- absent
    [[ $output == *'exec: "absent": executable file not found in $PATH'* ]]
    run -1 once -- /etc/plain
    [[ $output == *'exec: "/etc/plain": permission denied'* ]]
    soon gone
}

@test "a detached task: exec, ps, pause, resume, metrics, update, kill, rm" {
    detached -- sleep 1000
    pid=$(pid)
    run -5 ctr task exec --exec-id e c sh -c 'tr "\0" " " </proc/1/cmdline; exit 5'
    [[ $output == *"sleep 1000"* ]]
    run -0 ctr task exec --exec-id i c cat < <(soon eval '[ "$(ctr task ps c | wc -l)" = 3 ]' && echo from here)
    [ "$output" = "from here" ]
    run -1 ctr task exec --exec-id f c absent
    [[ $output == *'exec: "absent": executable file not found in $PATH'* ]]
    [[ $(ctr task ps c) == *"$pid"* ]]
    [ "$(grep ^Threads: "/proc/$(shim)/status" | tr -d '\t')" = Threads:1 ]
    ctr task pause c
    frozen "$pid"
    [ "$(status)" = PAUSED ]
    ctr task resume c
    thawed "$pid"
    run -0 ctr task metrics --format json c
    [ "$(jq '.pids.current == 1 and .cpu.usage_usec > 0' <<<"$output")" = true ]
    ctr task kill --signal KILL c
    soon stopped
    [ ! -e "/proc/$pid" ]
    ctr task rm c || [ $? = 137 ]
    ctr container rm c
    soon gone
}

@test "the input of a detached task has no end, though nobody has it open any more" {
    detached -- cat
    ctr task exec --exec-id e c true
    [ "$(status)" = RUNNING ]
}

@test "events: create, start, exec, pause, exit, delete, in this order" {
    listen
    detached -- sleep 1000
    pid=$(pid)
    run -4 ctr task exec --exec-id e c sh -c 'exit 4'
    ctr task pause c
    ctr task resume c
    ctr task kill --signal KILL c
    soon heard /tasks/exit '"id":"c"'
    ctr task rm c || [ $? = 137 ]
    soon heard /tasks/delete
    kill "$events"
    [ "$(tasks)" = "create start exec-added exec-started exit paused resumed exit delete" ]
    heard /tasks/start "\"pid\":$pid}"
    heard /tasks/exit '"container_id":"c","id":"e"'
    heard /tasks/exit '"exit_status":4'
    heard /tasks/exit "\"id\":\"c\",\"pid\":$pid,\"exit_status\":137"
}

@test "a container's end comes after the ends of its execs, which it brings, without a pid namespace too" {
    listen
    detached --with-ns pid:/proc/1/ns/pid -- sleep 1000
    ctr task exec --exec-id e c sh -c 'trap "" TERM; sleep 1000' 3>&- &
    soon heard /tasks/exec-started
    ctr task kill --signal KILL c
    soon heard /tasks/exit '"id":"c"'
    kill "$events"
    [ "$(grep /tasks/exit "$heard" | grep -o '"id":"."' | xargs)" = "id:e id:c" ]
}

@test "signals arrive, and a task is deleted by force" {
    detached -- sh -c 'trap "exit 9" TERM; while :; do sleep 0.1; done'
    soon grep -qi "^SigCgt:.*[4-7c-f]...$" "/proc/$(pid)/status" # bit 14
    ctr task kill --signal TERM c
    soon stopped
    run ctr task rm c
    [[ $output == *"9"* ]]
    ctr container rm c
    detached -- sleep 1000
    pid=$(pid)
    ctr task rm --force c || true
    soon test ! -e "/proc/$pid"
    ctr container rm c
    soon gone
}

@test "a terminal for run and for exec" {
    shares=$(grep -qw cpu /sys/fs/cgroup/cgroup.controllers || echo --cpu-shares 0)
    run -6 terminal "ctr run --rm --tty --runtime io.containerd.orlop.v2 $shares localhost/busybox:latest c sh -c 'tty; stty size; exit 6'"
    [[ $output == */dev/pts/0* ]]
    detached -- sleep 1000
    run -5 terminal "stty rows 33 cols 44; ctr task exec --tty --exec-id e c sh -c 'tty; sleep 2; stty size; exit 5'"
    [[ $output == */dev/pts/0* ]]
    [[ $output == *"33 44"* ]]
}

@test "output goes to a file, and to a program that is told which container it is" {
    logs=$BATS_TEST_TMPDIR
    run -3 once --log-uri "file://$logs/made/file" -- sh -c 'echo out; echo err >&2; exit 3'
    [ -z "$output" ]
    [ "$(sort "$logs/made/file" | xargs)" = "err out" ]
    printf '%s\n' '#!/bin/sh' 'echo "$@ $CONTAINER_NAMESPACE/$CONTAINER_ID" >"$2/args"; exec 5>&-' \
        'cat <&3 >"$2/out" &' 'cat <&4 >"$2/err" &' 'wait; echo >"$2/ended"' >"$logs/logger"
    chmod +x "$logs/logger"
    run -0 once --log-uri "binary://$logs/logger?to=$logs" -- sh -c 'echo out; echo err >&2'
    soon test -e "$logs/ended"
    [ "$(cat "$logs/args" "$logs/out" "$logs/err" | xargs)" = "to $logs default/c out err" ]
    run -1 once --log-uri "binary://$logs/absent" -- true
    [[ $output == *"it can't be executed"* ]]
    printf '%s\n' '#!/bin/sh' 'sleep 1000' >"$logs/silent"
    chmod +x "$logs/silent"
    run -1 once --log-uri "binary://$logs/silent" -- true
    [[ $output == *"it has not said that it is ready"* ]]
    ! pgrep -f "$logs/silent"
    soon gone
}

@test "what the shim says without a task" {
    run -0 containerd-shim-orlop-v2 -v
    [[ $output == *Version:* ]]
    containerd-shim-orlop-v2 -info </dev/null | grep -a io.containerd.orlop.v2 | grep -a -o '{.*}' | jq -e '.linux.namespaces | index("user")'
    cd "$BATS_TEST_TMPDIR"
    echo '{}' >config.json
    start() { TTRPC_ADDRESS=/run/containerd/containerd.sock.ttrpc containerd-shim-orlop-v2 -namespace default -address /a -id "$1" start </dev/null; }
    run -0 start plain
    [[ $output == unix:///run/containerd/s/* ]]
    [ "$output" = "$(cat address)" ]
    socket=${output#unix://}
    [ "$(stat -c '%a %U' "$socket" /run/containerd/s | xargs)" = "600 root 700 root" ]
    [ "$(start plain)" = "unix://$socket" ] # the one that is there
    run -0 env MAX_SHIM_VERSION=2 containerd-shim-orlop-v2 -namespace default -address /a -id json start </dev/null
    [ "$(jq -c '[.version, .protocol]' <<<"$output")" = '[2,"ttrpc"]' ]
    run -1 containerd-shim-orlop-v2 -namespace default -address /a -id bad start <<<'no message at all'
    kill -KILL $(shims '-address /a')
    rm /run/containerd/s/*
}

@test "a pod of Kubernetes has one shim" {
    list() { orlop --root /run/containerd/orlop/k8s.io list --format json; }
    parents() { list | jq -r '.[].pid' | xargs -I{} awk '$1 == "PPid:" { print $2 }' /proc/{}/status | sort -u; }
    pod orlop-shim
    container "" sleep 1000
    [ "$(list | jq -r '.[].id' | sort)" = "$(printf '%s\n' "$sandbox" "$container" | sort)" ]
    [ "$(parents | wc -l)" = 1 ]
    [ "$(inside echo inside)" = inside ]
    killed "$(cat "$BATS_FILE_TMPDIR/pid")"
    daemon
    [ "$(list | jq length)" = 2 ]
    [ "$(inside echo again)" = again ]
    cri StopPodSandbox "$(string 1 "$sandbox")"
    cri RemovePodSandbox "$(string 1 "$sandbox")"
    [ "$(list)" = null ] || [ "$(list)" = "[]" ]
    soon eval '[ -z "$(shims)" ]'
}

@test "containerd is killed and comes back: the task is there, and its shim the same" {
    detached -- sh -c 'while :; do sleep 0.1; done'
    pid=$(pid) shim=$(shim)
    killed "$(cat "$BATS_FILE_TMPDIR/pid")"
    [ -e "/proc/$pid" ]
    daemon
    [ "$(status) $(pid) $(shim)" = "RUNNING $pid $shim" ]
    run -5 ctr task exec --exec-id e c sh -c 'exit 5'
    listen
    ctr task kill --signal KILL c
    soon heard /tasks/exit '"id":"c"'
    kill "$events"
}

@test "a container ends while containerd is away: its exit status is there afterwards, and the event comes" {
    detached -- sh -c 'trap "exit 23" TERM; echo ready; while :; do sleep 0.1; done'
    pid=$(pid)
    soon grep -qi "^SigCgt:.*[4-7c-f]...$" "/proc/$pid/status"
    killed "$(cat "$BATS_FILE_TMPDIR/pid")"
    kill -TERM "$pid"
    soon test ! -e "/proc/$pid"
    soon untold
    [ "$(jq .exit.status "$(bundle)/orlop.json")" = 23 ]
    daemon
    stopped
    soon told
    # a newer containerd takes a task without one for one that was never made
    [[ $(ctr task ps c) == *"$pid"* ]]
    run ctr task rm c
    [[ $output == *"exit code 23"* ]]
}

@test "the shim is killed: what runs is killed, and how it ended is true" {
    detached -- sleep 1000
    pid=$(pid)
    listen
    killed "$(shim)"
    soon heard /tasks/exit '"id":"c"'
    heard /tasks/exit "\"pid\":$pid,\"exit_status\":137"
    [ ! -e "/proc/$pid" ]
    kill "$events"
    ctr container rm c
    soon gone
}

@test "the shim is killed after its container has ended: the status is that of the container" {
    detached -- sh -c 'trap "exit 21" TERM; while :; do sleep 0.1; done'
    shim=$(shim)
    soon grep -qi "^SigCgt:.*[4-7c-f]...$" "/proc/$(pid)/status"
    ctr task kill --signal TERM c
    soon stopped
    listen
    killed "$shim"
    soon heard /tasks/exit '"id":"c"'
    heard /tasks/exit '"exit_status":21'
    kill "$events"
    ctr container rm c
    soon gone
}

@test "a container ends when nobody is there to see it: its status is said to be unknown" {
    detached -- sh -c 'trap "exit 21" TERM; while :; do sleep 0.1; done'
    pid=$(pid)
    soon grep -qi "^SigCgt:.*[4-7c-f]...$" "/proc/$pid/status"
    killed "$(cat "$BATS_FILE_TMPDIR/pid")"
    killed "$(shim_of "$pid")"
    kill -TERM "$pid"
    soon test ! -e "/proc/$pid"
    [[ $(containerd-shim-orlop-v2 -namespace default -address /run/containerd/containerd.sock -id c -bundle "$(bundle)" delete |
        od -An -tx1) == *" 10 ff 01 "* ]] # the field exit_status
    daemon
}
