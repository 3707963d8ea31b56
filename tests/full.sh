#!/usr/bin/env bash
# Every test without sampling, by tier; writes what came of them to docs/results.md, to be committed.
# `just` must be in PATH, as `./dev full` makes sure.
set -euo pipefail
cd "$(dirname "$0")/.."
results=docs/results.md
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
rows="" failed=0

# Sums cargo's "test result: ok. N passed; N failed; N ignored" lines; Go says one `ok` per package.
counts() {
  awk '/^test result:/ { p += $4; f += $6; i += $8 }
    /^ok[ \t]/ { go++ } /^FAIL[ \t]/ { gofail++ }
    END { printf "%d | %d | %d | %d", p, f + gofail, i, go }' "$1"
}

tier() { # name, command...
  local name=$1 start=$SECONDS result=passed
  shift
  "$@" 2>&1 | tee "$logs/$name" || { result=FAILED failed=1; }
  rows+="| $name | \`$*\` | $result | $(counts "$logs/$name") | $((SECONDS - start)) |"$'\n'
}

tier lint just lint
tier unit just unit
tier e2e env E2E=full just e2e

dirty=""
[ -z "$(git status --porcelain -- . ":!$results")" ] || dirty=" with uncommitted changes"
cat >"$results" <<EOF
# Result of the last full run

Written by \`just full\` (tests/full.sh); commit it with what it tested.

- date: $(date -u +%Y-%m-%dT%H:%MZ)
- commit: $(git rev-parse HEAD)$dirty
- machine: $(nproc) processors, load at the end $(cut -d' ' -f1 /proc/loadavg)
- K3s: $(sed -n 's/^standin = true$/stand-in/p' target/image.lock 2>/dev/null | head -n1 | grep . || echo "as in builder.lock")

| tier | command | result | passed | failed | ignored | Go packages | seconds |
|---|---|---|---|---|---|---|---|
$rows
EOF
cat "$results" >&2
exit "$failed"
