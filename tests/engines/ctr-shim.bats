# containerd with orlop's own shim, spoken to by ctr.
load common
load ctr

ctr_run() {
    local flags=()
    grep -qw cpu /sys/fs/cgroup/cgroup.controllers || flags=(--cpu-shares 0)
    while [ "$1" != -- ]; do flags+=("$1") && shift; done
    shift
    ctr run --runtime io.containerd.orlop.v2 "${flags[@]}" localhost/busybox:latest c "$@"
}

@test "run: output and exit status" {
    run -0 once -- echo hello
    [ "$output" = hello ]
    run -3 once -- sh -c 'exit 3'
}
