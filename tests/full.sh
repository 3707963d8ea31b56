#!/usr/bin/env bash
# Every test without sampling, part by part; writes what came of them to docs/results.md, to be committed.
# A part that failed does not stop the others. Started again on the same commit it goes on with the parts that
# have not passed yet; `full.sh --again` runs all. `just` must be in PATH, as `./dev full` makes sure.
set -euo pipefail
cd "$(dirname "$0")/.."
export E2E=full
results=docs/results.md
commit=$(git rev-parse HEAD)
dirty=""
[ -z "$(git status --porcelain -- . ":!$results")" ] || dirty=" with uncommitted changes"
done=target/full/$commit # what passed: a file per part, its row
[ "${1:-}" != --again ] && [ -z "$dirty" ] || rm -rf "$done"
mkdir -p "$done" target/full/log

# Sums cargo's "test result: ok. N passed; N failed; N ignored" lines; Go says one `ok` per package.
counts() {
  awk '/^test result:/ { p += $4; f += $6; i += $8 }
    /^ok[ \t]/ { go++ } /^FAIL[ \t]/ { gofail++ }
    END { printf "%d | %d | %d | %d", p, f + gofail, i, go }' "$1"
}

rows="" failed=0
part() { # name, command...
  local name=$1 start=$SECONDS result=passed log=target/full/log/$1 row
  shift
  if [ -s "$done/$name" ]; then
    rows+="$(cat "$done/$name")"$'\n'
    return
  fi
  "$@" 2>&1 | tee "$log" || { result=FAILED failed=1; }
  row="| $name | \`$*\` | $result | $(counts "$log") | $((SECONDS - start)) | $(date -u +%H:%M) | $(cut -d' ' -f1 /proc/loadavg) |"
  rows+=$row$'\n'
  [ "$result" = FAILED ] || { echo "$row" >"$done/.new" && mv "$done/.new" "$done/$name"; }
}

integration() { (cd tests/k3s-standin && CGO_ENABLED=0 go test -tags integration -count=1 ./integration); }
e2e() { E2E_IMAGES=target/e2e-images cargo test --package e2e "$@" -- --test-threads=1 --nocapture; }

part lint just lint
part unit just unit
part images just e2e-images
part integration integration
part e2e-lib e2e --lib
for file in tests/tests/*; do
  name=$(basename "$file" .rs)
  part "$name" e2e --test "$name"
done

cat >"$results" <<EOF
# Result of the last full run

Written by \`just full\` (tests/full.sh); commit it with what it tested. The load is that at the end of the part.

- date: $(date -u +%Y-%m-%dT%H:%MZ)
- commit: $commit$dirty
- machine: $(nproc) processors, $(awk '/MemTotal/ { printf "%d", $2 / 1048576 + 0.5 }' /proc/meminfo) GiB
- K3s: $(sed -n 's/^standin = true$/stand-in/p' target/image.lock 2>/dev/null | head -n1 | grep . || echo "as in builder.lock")

| part | command | result | passed | failed | ignored | Go packages | seconds | at (UTC) | load |
|---|---|---|---|---|---|---|---|---|---|
$rows
EOF
cat "$results" >&2
exit "$failed"
