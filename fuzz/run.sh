#!/usr/bin/env bash
# Builds a fuzz target by the stable compiler, with coverage and address sanitizer, and runs it: what `cargo +nightly fuzz run` does.
#
#   fuzz/run.sh TARGET [ARGUMENTS OF libFuzzer]        fuzz/run.sh cells -max_total_time=3600
#
# It starts from corpus/TARGET and keeps what is new in target/found/TARGET, and what fails in artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
target=${1:?which target? $(ls fuzz_targets)}
shift

# RUSTC_BOOTSTRAP: the sanitizer and the coverage pass are unstable flags of a stable compiler.
flags=(-Cpasses=sancov-module -Ccodegen-units=1 -Clink-dead-code -Cdebug-assertions -Zsanitizer=address --cfg=fuzzing)
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$flag")
done
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" cargo build --release --bin "$target" --target "$host"

mkdir -p "target/found/$target" "artifacts/$target"
exec "target/$host/release/$target" "target/found/$target" "corpus/$target" \
    -artifact_prefix="artifacts/$target/" -print_final_stats=1 "$@"
