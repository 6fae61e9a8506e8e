# shellcheck shell=bash
# A containerd with orlop, spoken to by ctr, for the files that load this.

setup_file() {
    image
    archive
    shown containerd /etc/containerd/config.toml
    shown containerd /etc/containerd/orlop.toml
    grep -qw cpu /sys/fs/cgroup/cgroup.controllers ||
        printf '[plugins."io.containerd.grpc.v1.cri"]\ndisable_cgroup = true\nrestrict_oom_score_adj = true\n' >>/etc/containerd/config.toml
    network
    daemon
    ctr images import "$BATS_FILE_TMPDIR/archive.tar"
    ctr --namespace k8s.io images import "$BATS_FILE_TMPDIR/archive.tar"
    ctr --namespace k8s.io images tag localhost/busybox:latest registry.k8s.io/pause:3.6
}

# daemon: containerd. bats waits for whoever has a descriptor of its own, which runc's shim would have of it.
daemon() {
    (
        for each in /proc/self/fd/*; do
            ((${each##*/} < 3)) || eval "exec ${each##*/}>&-"
        done
        exec containerd >>"$BATS_FILE_TMPDIR/containerd.log" 2>&1
    ) &
    echo $! >"$BATS_FILE_TMPDIR/pid"
    soon ctr version >/dev/null
}

# network: a pod's network of Debian's plugins, an address of 10.88.0.0/24 behind a link to the host.
network() {
    printf '[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = "/usr/lib/cni"\n' >>/etc/containerd/config.toml
    mkdir -p /etc/cni/net.d
    jq -n '{cniVersion: "0.4.0", name: "pods", plugins: [{type: "ptp", ipam: {type: "host-local", subnet: "10.88.0.0/24",
        dataDir: "/run/addresses"}}]}' >/etc/cni/net.d/pods.conflist
}

# What docker save would have written.
archive() {
    local dir=$BATS_FILE_TMPDIR/archive digest
    mkdir "$dir"
    cp "$BATS_FILE_TMPDIR/image.tar" "$dir/layer.tar"
    digest=sha256:$(sha256sum <"$dir/layer.tar" | cut -d' ' -f1)
    jq -n --arg digest "$digest" '{architecture: "amd64", os: "linux", config: {Cmd: ["sleep", "1000"], Env: ["PATH=/bin"]},
        rootfs: {type: "layers", diff_ids: [$digest]}, history: [{created: "1970-01-01T00:00:00Z"}]}' >"$dir/config.json"
    jq -n '[{Config: "config.json", RepoTags: ["localhost/busybox:latest"], Layers: ["layer.tar"]}]' >"$dir/manifest.json"
    tar -C "$dir" -cf "$BATS_FILE_TMPDIR/archive.tar" .
}

# What makes ctr take this runtime, and systemd or the file system for its cgroup.
THROUGH=(--runc-binary /usr/local/bin/orlop)
[ "$MANAGER" != systemd ] || THROUGH+=(--runc-systemd-cgroup --cgroup system.slice:ctr:c)

# once FLAGS.. -- PROGRAM.., and detached likewise: a container named c.
once() { ctr_run --rm "$@"; }
detached() { ctr_run --detach "$@"; }
ctr_run() {
    local flags=()
    # natively a shares of 0 asks for no cpu controller
    grep -qw cpu /sys/fs/cgroup/cgroup.controllers || flags=(--cpu-shares 0)
    while [ "$1" != -- ]; do flags+=("$1") && shift; done
    shift
    ctr run "${THROUGH[@]}" "${flags[@]}" localhost/busybox:latest c "$@"
}
status() { ctr task ls | awk '$1 == "c" { print $3 }'; }
pid() { ctr task ls | awk '$1 == "c" { print $2 }'; }

# listen: the events from here on are in the file $heard; ends with `kill $events`. heard TOPIC [PART]: was there one?
listen() {
    heard=$BATS_TEST_TMPDIR/events
    ctr events >"$heard" 3>&- &
    events=$!
    soon eval 'ctr namespaces label default heard=$SECONDS.$RANDOM && heard /namespaces/update'
}
heard() { grep " $1 " "$heard" | grep -qF -e "${2:-$1}"; }

teardown() {
    local each
    for each in c counter; do
        ctr task rm --force "$each" >/dev/null 2>&1 || true
        ctr container rm "$each" >/dev/null 2>&1 || true
    done
}

teardown_file() {
    kill "$(cat "$BATS_FILE_TMPDIR/pid")"
}
