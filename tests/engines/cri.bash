# shellcheck shell=bash
# Kubernetes' interface to a runtime (CRI, runtime.v1) in the words of the kubelet: gRPC is a POST by HTTP/2, which curl sends,
# and protobuf is small enough to write by hand, in hexadecimal. The numbers of the fields are those of cri-api's api.proto.

varint() {
    local number=$1
    while ((number > 127)); do printf %02x $((number & 127 | 128)) && ((number >>= 7)); done
    printf %02x "$number"
}
# FIELD, and a message, a string or a number
message() { varint $(($1 << 3 | 2)) && varint $((${#2} / 2)) && printf %s "$2"; }
string() { message "$1" "$(printf %s "$2" | od -An -v -tx1 | tr -d ' \n')"; }
number() { varint $(($1 << 3)) && varint "$2"; }

# cri METHOD MESSAGE: the answer goes to the file `answer`; fails with the error of the call, or after $patience seconds.
cri() {
    local request status headers=$BATS_TEST_TMPDIR/headers
    answer=$BATS_TEST_TMPDIR/answer
    request=$(printf '00%08x%s' $((${#2} / 2)) "$2" | sed 's/../\\x&/g')
    printf "$request" | curl --silent --show-error --http2-prior-knowledge --max-time "${patience:-100}" --dump-header "$headers" \
        --unix-socket /run/containerd/containerd.sock --header 'content-type: application/grpc' --header 'te: trailers' \
        --data-binary @- --output "$answer" "http://containerd/runtime.v1.RuntimeService/$1"
    status=$(tr -d '\r' <"$headers" | sed -n 's/^grpc-status: //p')
    [ "$status" = 0 ] || { sed -n 's/^grpc-message: //p' "$headers" >&2 && return 1; }
}
# The id in the answer.
id() { grep -ao '[0-9a-f]\{64\}' "$answer"; }
# field NUMBER...: what the answer has in the field NUMBER of the message in the field NUMBER before it, each on a line. A number
# that is 0 is not sent.
field() { values "$(tail -c +6 "$answer" | od -An -v -tx1 | tr -d ' \n')" "$@"; }
values() {
    local hex=$1 wanted=$2 at=0 key number part
    shift 2
    while ((at < ${#hex})); do
        take && key=$number && take
        case $((key & 7)) in
        0) part=$number ;;
        2) part=${hex:at:number*2} && ((at += number * 2, 1)) ;;
        *) echo "a field of another type: $hex" >&2 && return 1 ;;
        esac
        ((key >> 3 == wanted)) || continue
        if [ $# != 0 ]; then values "$part" "$@"; elif ((key & 7)); then printf "$(sed 's/../\\x&/g' <<<"$part")\n"; else echo "$part"; fi
    done
}
take() { # the number at `at` of `hex`, which it leaves behind
    local byte=128 shift=0
    number=0
    while ((byte & 128)); do
        byte=0x${hex:at:2}
        ((number |= (byte & 127) << shift, shift += 7, at += 2))
    done
}

# pod HANDLER [NETWORK]: the sandbox of a pod with the handler that a RuntimeClass names, by its id: with the host's network, or
# one of its own where NETWORK is 0. $pod is its configuration.
pod() {
    local namespaces parent
    namespaces=$(number 1 "${2:-2}")
    case $MANAGER in systemd) parent=/kubepods.slice ;; *) parent=/kubepods ;; esac
    pod=$(message 1 "$(string 1 pod)$(string 2 uid)$(string 3 default)")
    pod+=$(string 3 "$BATS_TEST_TMPDIR")$(message 8 "$(string 1 "$parent")$(message 2 "$(message 1 "$namespaces")")")
    cri RunPodSandbox "$(message 1 "$pod")$(string 2 "$1")"
    sandbox=$(id)
}
# container LIMITS COMMAND...: one in the pod, started, and named as its program; its output is in $log. $container is its id. With
# pid=1 it has processes of its own, as Kubernetes has it, and else those of the pod.
container() {
    local config each limits=$1
    shift
    log=$BATS_TEST_TMPDIR/$((++attempt)).log
    config=$(message 1 "$(string 1 "$1")$(number 2 $attempt)")$(message 2 "$(string 1 localhost/busybox:latest)")
    for each; do config+=$(string 3 "$each"); done
    config+=$(string 11 "${log##*/}")
    config+=$(message 15 "${limits:+$(message 1 "$limits")}$(message 2 "$(message 3 "$(number 2 "${pid:-0}")")")")
    cri CreateContainer "$(string 1 "$sandbox")$(message 2 "$config")$(message 3 "$pod")"
    container=$(id)
    cri StartContainer "$(string 1 "$container")"
}
# inside COMMAND...: what it prints in the container, as the kubelet asks; its exit status.
inside() {
    local request each
    request=$(string 1 "$container")
    for each; do request+=$(string 2 "$each"); done
    cri ExecSync "$request$(number 3 "${timeout:-60}")" || return 255
    field 1
    return $(($(field 3)))
}
# has FIELD VALUE: what containerd says of the container.
has() {
    cri ContainerStatus "$(string 1 "$container")"
    [ "$(field 1 "$1")" = "$2" ]
}
RUNNING=1 EXITED=2
