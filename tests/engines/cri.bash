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

# cri METHOD MESSAGE: the answer goes to the file `answer`; fails with the error of the call.
cri() {
    local request status headers=$BATS_TEST_TMPDIR/headers
    answer=$BATS_TEST_TMPDIR/answer
    request=$(printf '00%08x%s' $((${#2} / 2)) "$2" | sed 's/../\\x&/g')
    printf "$request" | curl --silent --show-error --http2-prior-knowledge --max-time 100 --dump-header "$headers" \
        --unix-socket /run/containerd/containerd.sock --header 'content-type: application/grpc' --header 'te: trailers' \
        --data-binary @- --output "$answer" "http://containerd/runtime.v1.RuntimeService/$1"
    status=$(tr -d '\r' <"$headers" | sed -n 's/^grpc-status: //p')
    [ "$status" = 0 ] || { sed -n 's/^grpc-message: //p' "$headers" >&2 && return 1; }
}
# The id in the answer.
id() { grep -ao '[0-9a-f]\{64\}' "$answer"; }

# pod HANDLER, which the RuntimeClass names: a pod's sandbox with the host's network, by its id. $pod is its configuration.
pod() {
    local namespaces parent
    namespaces=$(number 1 2)
    case $MANAGER in systemd) parent=/kubepods.slice ;; *) parent=/kubepods ;; esac
    pod=$(message 1 "$(string 1 pod)$(string 2 uid)$(string 3 default)")
    pod+=$(message 8 "$(string 1 "$parent")$(message 2 "$(message 1 "$namespaces")")")
    cri RunPodSandbox "$(message 1 "$pod")$(string 2 "$1")"
    sandbox=$(id)
}
# container LIMITS COMMAND...: one in the pod, started, and named as its program. $container is its id.
container() {
    local config each limits=$1
    shift
    config=$(message 1 "$(string 1 "$1")")$(message 2 "$(string 1 localhost/busybox:latest)")
    for each; do config+=$(string 3 "$each"); done
    [ -z "$limits" ] || config+=$(message 15 "$(message 1 "$limits")")
    cri CreateContainer "$(string 1 "$sandbox")$(message 2 "$config")$(message 3 "$pod")"
    container=$(id)
    cri StartContainer "$(string 1 "$container")"
}
# inside COMMAND...: what it prints in the container.
inside() {
    local request each
    request=$(string 1 "$container")
    for each; do request+=$(string 2 "$each"); done
    cri ExecSync "$request$(number 3 60)"
    cat "$answer"
}
