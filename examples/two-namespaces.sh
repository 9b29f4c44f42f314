#!/usr/bin/env bash
# Two hosts on one machine: two network namespaces, one twin between them, an interface on each side.
#
#   isthmus-a: ntb0 10.9.0.1 ── isthmus net ══ port a │ twin │ port b ══ isthmus net ── ntb0 10.9.0.2 :isthmus-b
#
# Then ping and iperf3 across it, and the counters of both ends. It takes root (or CAP_NET_ADMIN and CAP_SYS_ADMIN), /dev/net/tun,
# iproute2, ping and iperf3.
#
#   examples/two-namespaces.sh [--isthmus FILE] [--mtu BYTES] [--seconds N] [--pings N] [--compare] [-- ARGUMENTS OF isthmus net]
#
# --compare also runs iperf3 over a pair of veth between two more namespaces, before and after, for the same machine's yardstick.
#
# Exit status: 0 all passed, 1 something across the link failed, 2 it could not run, 77 this machine does not permit it.
set -euo pipefail

isthmus=${ISTHMUS:-isthmus} mtu=65521 seconds=3 pings=1000 compare=
while (($#)); do
    case $1 in
        --isthmus) isthmus=$2; shift 2 ;;
        --mtu) mtu=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --pings) pings=$2; shift 2 ;;
        --compare) compare=yes; shift ;;
        --) shift; break ;;
        *) echo "two-namespaces: no such option: $1" >&2; exit 2 ;;
    esac
done

not_permitted() {
    echo "two-namespaces: skipped: $1" >&2
    exit 77
}
for tool in ip ping iperf3; do
    command -v "$tool" >/dev/null || not_permitted "there is no '$tool'; apt-get install iproute2 iputils-ping iperf3"
done
command -v "$isthmus" >/dev/null || { echo "two-namespaces: no isthmus at '$isthmus'; --isthmus says where it is" >&2; exit 2; }
[[ -c /dev/net/tun ]] || not_permitted "there is no /dev/net/tun"

# Names of their own, so that two of these can run at once.
run=$(mktemp -d "${TMPDIR:-/tmp}/isthmus-example.XXXXXX")
a=isthmus-a-$$ b=isthmus-b-$$ jobs=()
finish() {
    status=$?
    trap - EXIT
    for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
    for job in "${jobs[@]}"; do wait "$job" 2>/dev/null || true; done
    for name in "$a" "$b"; do ip netns delete "$name" 2>/dev/null || true; done
    rm -rf "$run"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

ip netns add "$a" 2>"$run/why" || not_permitted "no network namespaces: $(<"$run/why")"
ip netns add "$b"
for name in "$a" "$b"; do ip -n "$name" link set lo up; done
ip -n "$a" tuntap add mode tap name probe0 2>"$run/why" || not_permitted "no TAP: $(<"$run/why")"
ip -n "$a" link delete probe0

# until SECONDS COMMAND..: waits for a fact.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        read -rt 0.05 <> <(:) || true
    done
}

"$isthmus" twin --port-a "$run/a.sock" --port-b "$run/b.sock" --control "$run/twin.sock" --window direct --mw-size 4M >"$run/twin.log" 2>&1 &
jobs+=($!)
until_true 10 test -S "$run/twin.sock" || { cat "$run/twin.log" >&2; exit 2; }

interface() { # namespace, port, address, arguments
    local name=$1 port=$2 address=$3
    shift 3
    "$isthmus" net --port "$run/$port.sock" --control "$run/twin.sock" --netns "/run/netns/$name" \
        --tap ntb0 --addr "$address" --mtu "$mtu" --metrics "unix:$run/$port.metrics" "$@" >"$run/$port.log" 2>&1 &
    jobs+=($!)
}
interface "$a" a 10.9.0.1/24 "$@"
interface "$b" b 10.9.0.2/24 "$@"
if ! until_true 15 ip netns exec "$a" ping -c 1 -W 1 10.9.0.2; then
    echo "two-namespaces: nothing passes:" >&2
    cat "$run"/*.log >&2
    exit 1
fi

iperf() { # label, namespace of the server, its address, namespace of the client
    # Or the last server's words would be taken for this one's.
    rm -f "$run/server.log"
    ip netns exec "$2" iperf3 --server --one-off --bind "$3" --forceflush >"$run/server.log" 2>&1 &
    local server=$!
    jobs+=("$server")
    until_true 5 grep -q listening "$run/server.log" || { cat "$run/server.log" >&2; return 1; }
    ip netns exec "$4" iperf3 --client "$3" --time "$seconds" --format g >"$run/client.log" 2>&1 || { cat "$run/client.log" >&2; return 1; }
    wait "$server"
    awk -v label="$1" '/receiver/ { printf "%-34s %6.2f Gbit/s\n", label, $(NF - 2) }' "$run/client.log"
}

veth() { # label
    [[ $compare ]] || return 0
    ip -n "$a" link add veth0 type veth peer name veth0 netns "$b"
    ip -n "$a" address add 10.9.1.1/24 dev veth0
    ip -n "$b" address add 10.9.1.2/24 dev veth0
    ip -n "$a" link set veth0 up
    ip -n "$b" link set veth0 up
    iperf "$1" "$b" 10.9.1.2 "$a"
    ip -n "$a" link delete veth0
}

echo "ping: $pings, as fast as they come back"
ip netns exec "$a" ping -q -f -c "$pings" 10.9.0.2 | tee "$run/ping.log" | tail -n 2
grep -q ' 0% packet loss' "$run/ping.log"

veth "veth, MTU 1500, before"
iperf "TCP a to b, MTU $mtu" "$b" 10.9.0.2 "$a"
iperf "TCP b to a, MTU $mtu" "$a" 10.9.0.1 "$b"
veth "veth, MTU 1500, after"

for port in a b; do
    echo
    "$isthmus" status --net "unix:$run/$port.metrics"
done
# What one end sent the other has received: nothing was lost on the way.
moved() { "$isthmus" status --net "unix:$run/$1.metrics" --json | sed -E "s/.*\"counters\":\{[^}]*\"$2\":([0-9]+).*/\1/"; }
arrived() { [[ $(moved a tx_frames) == $(moved b rx_frames) && $(moved b tx_frames) == $(moved a rx_frames) ]]; }
until_true 5 arrived || { echo "two-namespaces: frames were lost between the TAPs" >&2; exit 1; }
echo
echo "passed: every frame that one TAP gave, the other took"
