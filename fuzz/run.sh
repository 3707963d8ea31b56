#!/bin/sh
# Fuzzes each target for SECONDS_EACH (30) with the stable compiler: cargo-fuzz wants nightly, but the
# coverage that libFuzzer steers by needs only these flags.
set -eu
cd "$(dirname "$0")"
sancov='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Ccodegen-units=1'
for what in inline-8bit-counters pc-table trace-compares; do
	sancov="$sancov -Cllvm-args=-sanitizer-coverage-$what"
done
triple=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=$sancov cargo build --locked --target "$triple"
for target in join sidecar; do
	mkdir -p "corpus/$target"
	"target/$triple/debug/$target" -max_total_time="${SECONDS_EACH:-30}" -max_len=900 "corpus/$target"
done
