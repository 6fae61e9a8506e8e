# shellcheck shell=bash
# What the engines' bats files share. They run inside `place`, where every path of the machine that an engine writes to is
# this run's own, and ends with it.
bats_require_minimum_version 1.5.0

# page NAME: docs/engines/NAME.md as it is, or with systemd in the place of cgroupfs (`machine`).
MANAGER=${MANAGER:-cgroupfs}
page() {
    sed -e "s/cgroupfs/$MANAGER/g" -e "/^SystemdCgroup/s/=.*/= $([ $MANAGER = systemd ] && echo true || echo false)/" \
        "${BASH_SOURCE[0]%/*}/../../docs/engines/$1.md"
}

# shown NAME FILE: what the page says to write into FILE, there. So its configurations are those that the tests run with.
shown() {
    mkdir -p "${2%/*}"
    page "$1" | awk -v head="\`$2\`:" '
        $0 == head { found = 1 }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside' >"$2"
    test -s "$2"
}

# commands NAME [SECTION]: runs the sh blocks of the page as one script, and looks for each of its text blocks in what that
# prints. These sections are apart: not every place has criu, systemd or the shim.
APART="^## (Checkpoints|With systemd|With orlop's own shim)\$"
commands() {
    local block=$BATS_TEST_TMPDIR/block
    rm -f "$block".*
    page "$1" | awk -v wanted="${2:-}" -v apart="$APART" -v block="$block" '
        /^## / { section = $0 ~ apart ? substr($0, 4) : "" }
        section != wanted { next }
        /^```/ { kind = kind == "" ? substr($0, 4) : ""; if (kind == "text") number++; next }
        kind == "sh" { print >(block ".sh") }
        kind == "text" { print >(block "." number ".text") }'
    run -0 bash -euc "$(cat "$block.sh")" </dev/null
    for text in "$block".*.text; do
        [ -e "$text" ] || continue
        [[ $output == *"$(cat "$text")"* ]]
    done
}

# A program that counts in its memory, and writes the count beside a word that no other run of it has.
COUNTER='read word </proc/sys/kernel/random/uuid; while :; do i=$((i + 1)); echo "$word $i" >/new; mv /new /count; sleep 0.1; done'
# later COUNT: is that of the container `counter` the same run, and further? `count` is the file's, of the engine.
later() {
    local now
    now=$(count)
    [ "${now% *}" = "${1% *}" ] && [ "${now#* }" -gt "${1#* }" ]
}

# conditions: tells podman what this host lacks: a network for containers, and natively the pids controller and the right to
# raise resource limits.
conditions() {
    mkdir -p /etc/containers/containers.conf.d
    {
        echo '[containers]'
        echo 'netns = "none"'
        grep -qw pids /sys/fs/cgroup/cgroup.controllers || echo 'pids_limit = 0'
        prlimit --nofile=1048576:1048576 true 2>/dev/null || echo 'default_ulimits = ["nofile=1000:1000", "nproc=1000:1000"]'
    } >/etc/containers/containers.conf.d/conditions.conf
}

# image: the image's root file system in $BATS_FILE_TMPDIR/image, and as image.tar beside it.
image() {
    local root=$BATS_FILE_TMPDIR/image each
    mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp}
    chmod 1777 "$root/tmp"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for each in $("$root/bin/busybox" --list); do
        [ "$each" = busybox ] || ln "$root/bin/busybox" "$root/bin/$each"
    done
    printf '%s\n' root:x:0:0:root:/root:/bin/sh user:x:1000:1000::/tmp:/bin/sh >"$root/etc/passwd"
    printf '%s\n' root:x:0: user:x:1000: >"$root/etc/group"
    echo text >"$root/etc/plain" # not executable
    tar -C "$root" -cf "$BATS_FILE_TMPDIR/image.tar" .
}

# terminal COMMAND: runs it by the shell on a terminal of its own, and prints what that showed.
terminal() {
    script --quiet --return --echo never --command "$1" /dev/null </dev/null | tr -d '\r\000'
    return "${PIPESTATUS[0]}"
}

# typed COMMAND: runs it on a terminal of 33 lines and 44 columns, on which a word is typed as soon as it has shown `ready`, and prints
# what the terminal showed. TALK is a program for that.
TALK='echo ready; read word; echo "<$word>"; stty size'
typed() {
    local keys=$BATS_TEST_TMPDIR/keys shown=$BATS_TEST_TMPDIR/shown
    rm -f "$keys" "$shown"
    mkfifo "$keys"
    # open for both, so that the keyboard does not end
    script --quiet --return --echo never --flush --command "stty rows 33 cols 44; $1" /dev/null <>"$keys" >"$shown" 3>&- &
    soon grep -qs ready "$shown" || return
    echo word 1<>"$keys"
    wait $! && tr -d '\r\000' <"$shown"
}

# soon COMMAND...: until it succeeds, a minute at most.
soon() {
    local end=$((SECONDS + 60)) pause=0.05
    [ -z "${ORLOP_MACHINE:-}" ] || pause=0.3 # the start of sleep(1) takes an emulator that long
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep "$pause"
    done
}

# cgroup PID: the directory of the process's cgroup.
cgroup() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$1/cgroup")"; }

# limits PID: the limits of its cgroup, in a line.
limits() {
    (cd "$(cgroup "$1")" && echo $(cat memory.max memory.swap.max pids.max cpu.max))
}

# frozen PID: is the process in a frozen cgroup?
frozen() { grep -q '^frozen 1$' "$(cgroup "$1")/cgroup.events"; }
thawed() { ! frozen "$1"; }
