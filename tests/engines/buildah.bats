# buildah with orlop as docs/engines/buildah.md has it.
load common

setup_file() {
    image
    shown podman /etc/containers/containers.conf
    export BUILDAH_RUNTIME=/usr/local/bin/orlop BUILDAH_ISOLATION=oci
}

setup() {
    c=$(buildah from scratch)
    buildah copy "$c" "$BATS_FILE_TMPDIR/image" / >/dev/null
}

@test "the commands of docs/engines/buildah.md" {
    buildah commit --quiet "$c" localhost/busybox
    commands buildah
}

@test "run: output, input and exit status" {
    run -0 buildah run --runtime /usr/local/bin/orlop --network none "$c" -- echo hello
    [ "$output" = hello ]
    run -3 buildah run --network none "$c" -- sh -c 'exit 3'
    [ "$(echo words | buildah run --network none "$c" -- cat)" = words ]
}

@test "run: what cannot be executed" {
    run -1 buildah run --network none "$c" -- absent
    [[ $output == *'executable file not found in $PATH'* ]]
    run -1 buildah run --network none "$c" -- /etc/plain
    [[ $output == *"permission denied"* ]]
}

@test "run with a terminal" {
    run -6 terminal "buildah run --tty --network none $c -- sh -c 'tty; exit 6'"
    [[ $output == */dev/pts/0* ]]
    [[ $(typed "buildah run --tty --network none $c -- sh -c '$TALK'") == *"<word>"* ]]
}

@test "run: --user, --workingdir, --hostname, --cap-drop and --volume" {
    run -0 buildah run --network none --user 1000 --workingdir /tmp --hostname inside "$c" -- \
        sh -c 'echo "$(id -u) $(pwd) $(hostname)"'
    [ "$output" = "1000 /tmp inside" ]
    run -0 buildah run --network none --cap-drop CAP_CHOWN "$c" -- grep ^CapEff: /proc/self/status
    (( (16#${output: -16} & 1) == 0 ))
    run -1 buildah run --network none -v "$BATS_TEST_TMPDIR:/volume:ro" "$c" -- touch /volume/made
    [[ $output == *"Read-only file system"* ]]
}

@test "from scratch to an image, and on from there" {
    buildah run --network none "$c" -- sh -c 'echo built >/made'
    buildah commit --quiet "$c" built
    printf 'FROM localhost/built\nRUN echo more >>/made\nUSER 1000\nRUN id -u >/tmp/id\n' >"$BATS_TEST_TMPDIR/Containerfile"
    buildah bud --network none --tag more "$BATS_TEST_TMPDIR"
    d=$(buildah from more)
    run -0 buildah run --network none "$d" -- cat /made /tmp/id
    [ "$(echo $output)" = "built more 1000" ]
}

@test "--runtime-flag systemd-cgroup: a scope of systemd, or one error where that is not" {
    by_systemd() { buildah run --network none --runtime-flag systemd-cgroup -v "$BATS_TEST_TMPDIR:/volume" "$c" -- "$@"; }
    if [ "$MANAGER" != systemd ]; then
        run -1 by_systemd touch /volume/made
        [ "$(grep -c systemd <<<"$output")" = 1 ]
        [ ! -e "$BATS_TEST_TMPDIR/made" ]
        return
    fi
    by_systemd sh -c 'touch /volume/made; until [ -e /volume/go ]; do sleep 0.1; done' 3>&- &
    soon test -e "$BATS_TEST_TMPDIR/made"
    scope=$(echo /sys/fs/cgroup/system.slice/runc-*.scope) # the name that buildah leaves to the runtime
    grep -q until "/proc/$(head -n 1 "$scope/cgroup.procs")/cmdline"
    touch "$BATS_TEST_TMPDIR/go"
    wait $!
    [ ! -e "$scope" ]
}

teardown() {
    buildah rm --all >/dev/null
    [ -z "$(orlop list --quiet)" ]
}
