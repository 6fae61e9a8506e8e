# podman in the hands of the machine's ordinary user: with systemd the cgroups are scopes of the user's own, to which some
# controllers are delegated; with cgroupfs they lie beside the scope that podman has its user's systemd make for itself.
load common

setup_file() {
    image
    shown podman /etc/containers/containers.conf
    conditions
    chmod 755 "$BATS_RUN_TMPDIR" "$BATS_FILE_TMPDIR"
    chmod 644 "$BATS_FILE_TMPDIR/image.tar"
    install -d -o user /run/place/home
    as podman import --quiet "$BATS_FILE_TMPDIR/image.tar" busybox
}

# as COMMAND...: by the user, from outside of the user's systemd as in a login by su(1).
as() {
    cd /
    env -i PATH="$PATH" HOME=/run/place/home XDG_RUNTIME_DIR=/run/user/1000 USER=user \
        setpriv --reuid user --regid user --init-groups --inh-caps=-all "$@"
}

pid() { as podman inspect --format '{{.State.Pid}}' c; }

@test "run, exec, kill" {
    run -3 as podman run --rm busybox sh -c 'exit 3'
    as podman run -d --name c busybox sleep 1000
    run -7 as podman exec c sh -c 'exit 7'
    [ -e /run/user/1000/orlop ] || [ -e /run/user/1000/runc ]
    as podman kill c
    [ "$(as podman wait c)" = 137 ]
}

@test "limits" {
    # more than the limit, read into memory at once
    exceeds() { as podman run --rm --memory 64m --memory-swap 64m busybox dd if=/dev/zero of=/dev/null bs=100M count=1; }
    run -137 exceeds
    as podman run -d --name c --memory 64m --memory-swap 80m --pids-limit 20 busybox sleep 1000
    pid=$(pid)
    cgroup=$(cgroup "$pid")
    slice=/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/user.slice
    [[ $(limits "$pid") == "67108864 16777216 20 "* ]]
    if [ "$MANAGER" = cgroupfs ]; then
        [ "$cgroup" = "$slice/$(as podman inspect --format '{{.Id}}' c)" ]
        as podman rm --force --time 0 c
        [ ! -e "$cgroup" ]
        return
    fi
    [[ $cgroup == "$slice"/libpod-*.scope* ]]
    run -0 as podman exec c cat /proc/self/cgroup
    [ "$output" = 0::/ ]
    run -0 as podman stats --no-stream --no-reset --format '{{.MemUsage}} {{.PIDs}}' c
    [[ $output == *" / 67.11MB 1" ]]
    as podman update --memory 96m --memory-swap 96m c
    [[ $(limits "$pid") == "100663296 0 20 "* ]]
    as podman pause c
    frozen "$pid"
    as podman unpause c
    as podman rm --force --time 0 c
    [ ! -e "$cgroup" ]
}

teardown_file() {
    as podman system migrate # ends the process that holds podman's namespaces
}

teardown() {
    as podman rm --all --force --time 0 >/dev/null
}
