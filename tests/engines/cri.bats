# Kubernetes, as far as containerd's socket for it: what the kubelet asks for a pod of the RuntimeClass `orlop`, by runc's shim and by
# orlop's own. The kubelet itself is not here.
load common
load ctr
load cri
patience=30 # a call that hangs is the failure of its case, before the case's own time is over

# by_each COMMAND: it, by each handler, with the state of its containers in $root; then the pod goes.
by_each() {
    local each
    for each in orlop:runc orlop-shim:orlop; do
        handler=${each%:*} root=/run/containerd/${each#*:}/k8s.io
        [ "$handler" = orlop ] || [ -e /usr/local/bin/containerd-shim-orlop-v2 ] || continue # with another runtime
        echo "# with the handler $handler"
        "$@"
        removed
    done
}
list() { orlop --root "$root" list --format json; }
init() { orlop --root "$root" state "$1" | jq .pid; }
# removed: the pod goes, and leaves no state, process, network or socket.
removed() {
    cri StopPodSandbox "$(string 1 "$sandbox")"
    cri RemovePodSandbox "$(string 1 "$sandbox")"
    [ "$(list | jq length)" = 0 ]
    [ -z "$(ls "$root" /run/netns 2>/dev/null | grep -v :)" ]
    soon eval '[ -z "$(ls /run/containerd/s)" ]'
    sandbox=
}
# What has failed leaves no pod to the next case, nor one that this one would wait for.
teardown() {
    [ -z "${sandbox:-}" ] || { cri StopPodSandbox "$(string 1 "$sandbox")" && cri RemovePodSandbox "$(string 1 "$sandbox")"; } || :
}

@test "a handler that is not configured is refused" {
    run -1 pod absent
    [[ $output == *'no runtime for "absent" is configured'* ]]
}

@test "containers of a pod share what the pod says" {
    shares() {
        namespace() { readlink "/proc/$1/ns/$2"; }
        pod "$handler" 0
        pid=1 container "" sleep 1000
        own=$(init "$container")
        container "" sleep 1000
        common=$(init "$container") pause=$(init "$sandbox")
        [ "$(list | jq length)" = 3 ]
        for each in net ipc uts; do
            [ "$(namespace "$own" $each)" = "$(namespace "$pause" $each)" ]
            [ "$(namespace "$common" $each)" = "$(namespace "$pause" $each)" ]
            [ "$(namespace "$pause" $each)" != "$(namespace self $each)" ]
        done
        [ "$(namespace "$common" pid)" = "$(namespace "$pause" pid)" ]
        [ "$(namespace "$own" pid)" != "$(namespace "$pause" pid)" ]
        [ "$(namespace "$own" mnt)" != "$(namespace "$common" mnt)" ]
        for each in pid mnt; do [ "$(namespace "$own" $each)" != "$(namespace self $each)" ]; done
        [ "$(ls /run/containerd/s | grep -cv events)" = 1 ] # one shim for all
    }
    by_each shares
    hosts() { # and a pod with the host's network has that
        pod "$handler"
        container "" sleep 1000
        [ "$(inside readlink /proc/self/ns/net)" = "$(readlink /proc/self/ns/net)" ]
    }
    by_each hosts
}

@test "an exec probe: its status, and an end when it takes too long" {
    probes() {
        pod "$handler"
        pid=1 container "" sleep 1000
        own=$(init "$container")
        run -0 inside echo ready
        [ "$output" = ready ]
        run -1 inside sh -c 'exit 1'
        timeout=1 run -255 inside sleep 2000
        [[ $output == *"timeout 1s exceeded"* ]]
        [ "$(inside ps -o args | grep -c "sleep [12]000")" = 1 ] # nothing goes on
        run -255 inside absent
        [[ $output == *'exec: "absent": executable file not found in $PATH'* ]]
        [ "$(init "$container") $(inside echo on)" = "$own on" ]
        has 3 $RUNNING
    }
    by_each probes
}

@test "http and tcp probes from the host, and a container that fails them is made anew in its pod" {
    serve() { container "" sh -c 'echo fine >/tmp/healthz; exec httpd -f -p 8080 -h /tmp'; }
    live() { curl --silent --fail --noproxy '*' --max-time 5 "http://$address:8080/healthz"; }
    open() { : <>"/dev/tcp/$address/8080"; }
    probes() {
        pod "$handler" 0
        cri PodSandboxStatus "$(string 1 "$sandbox")"
        address=$(field 1 5 1)
        [[ $address == 10.88.0.* ]]
        run ! open
        serve
        soon open
        [ "$(live)" = fine ]
        inside rm /tmp/healthz
        run -22 live # 404
        cri StopContainer "$(string 1 "$container")$(number 2 1)"
        run ! open
        cri RemoveContainer "$(string 1 "$container")"
        serve
        soon live
    }
    by_each probes
}

@test "a container's output, statistics and end, with its grace and without" {
    ends() {
        pod "$handler"
        container "" sh -c 'trap "exit 9" TERM; sleep 2000 & echo ready; while :; do sleep 0.1; done'
        has 3 $RUNNING
        cgroup=$(cgroup "$(init "$container")")
        soon grep -q ' stdout F ready$' "$log"
        cri ContainerStats "$(string 1 "$container")"
        [ "$(field 1 1 1)" = "$container" ]
        # runc's shim counts where the cpu controller is, and ours what the kernel counts
        if [ "$handler" = orlop-shim ] || grep -qw cpu /sys/fs/cgroup/cgroup.controllers; then
            counted=$(field 1 2 2 1)
            ((counted > 0 && counted <= $(awk '$1 == "usage_usec" { print $2 * 1000 }' "$cgroup/cpu.stat")))
        fi
        cri StopContainer "$(string 1 "$container")$(number 2 20)"
        has 3 $EXITED
        has 7 9
        soon eval '[ -z "$(cat "$cgroup/cgroup.procs" 2>/dev/null)" ]' # in the pod's pid namespace it has left one
        cri RemoveContainer "$(string 1 "$container")"
        container "" sh -c 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
        soon grep -q ' stdout F ready$' "$log"
        pid=$(init "$container")
        cri StopContainer "$(string 1 "$container")$(number 2 1)"
        [ ! -e "/proc/$pid" ]
        has 3 $EXITED
        has 7 137
    }
    by_each ends
}

@test "a program that is not there: the error and the status say so" {
    fails() {
        pod "$handler"
        run -1 container "" absent
        [[ $output == *'exec: "absent": executable file not found in $PATH'* ]]
        cri ListContainers ""
        container=$(field 1 1)
        has 3 $EXITED
        has 10 StartError
        [[ $(field 1 11) == *'exec: "absent": executable file not found in $PATH'* ]]
    }
    by_each fails
}

@test "a limit is changed, or refused where this host can't set it, and the container goes on" {
    limits() {
        pod "$handler"
        container "" sleep 1000
        pid=$(init "$container")
        cgroup=$(cgroup "$pid")
        run cri UpdateContainerResources "$(string 1 "$container")$(message 2 "$(number 4 67108864)")"
        if [ -e "$cgroup/memory.max" ]; then
            [ "$status $(cat "$cgroup/memory.max")" = "0 67108864" ]
        else
            [[ "$status $output" == "1 "*"/memory.max:"*"no such file or directory"* ]]
        fi
        [ "$(init "$container") $(inside echo on)" = "$pid on" ]
    }
    by_each limits
}
