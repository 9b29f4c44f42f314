#!/usr/bin/env bash
# Isthmus beside what else carries bytes between two processors of one machine, in the same windows.
#
#   bench/peers.sh                    install what is missing, build, measure for a minute, print a table
#   bench/peers.sh --no-install       measure what is there
#   bench/peers.sh --seconds 300 --json
#   bench/peers.sh --only ucx
#
# In threads of one process: rtrb, iceoryx2, Unix sockets (crates, built by cargo into bench/peers/target). As programs: UCX, libfabric, DPDK
# memif, sockperf over veth (Debian packages). Root is needed to install packages and for the veth pair; everything else
# runs as anybody. A peer that is not there, or fails, is a line that says so.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

install=true
arguments=()
for word in "$@"; do
    if [[ $word == --no-install ]]; then install=false; else arguments+=("$word"); fi
    if [[ $word == --help || $word == -h ]]; then install=false; fi
done

say() { echo "peers: $*" >&2; }

# program:packages
wanted=(ucx_perftest:ucx-utils fi_pingpong:libfabric-bin sockperf:sockperf "dpdk-testpmd:dpdk-dev librte-net-memif23" ip:iproute2 taskset:util-linux)
if $install; then
    missing=()
    for pair in "${wanted[@]}"; do
        if ! PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null; then
            read -ra packages <<<"${pair#*:}"
            missing+=("${packages[@]}")
        fi
    done
    if ((${#missing[@]} == 0)); then
        say "every program is installed"
    elif ! command -v apt-get >/dev/null; then
        say "there is no apt-get here; install by hand what you want to see: ${missing[*]}"
    elif ((EUID != 0)); then
        say "not root: go without ${missing[*]}, or run: sudo apt-get install ${missing[*]}"
    else
        # One by one: a package that a system has not got does not keep the others out.
        for package in "${missing[@]}"; do
            say "apt-get install $package"
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
                say "$package cannot be installed; its row will say so"
        done
    fi
fi

command -v cargo >/dev/null || { say "there is no cargo: see https://rustup.rs"; exit 2; }
say "building"
cargo build --quiet --release --locked --manifest-path "$here/peers/Cargo.toml" ||
    { say "it does not build"; exit 2; }
exec "$here/peers/target/release/peers" ${arguments[@]+"${arguments[@]}"}
