#!/usr/bin/env bash
# Every test without sampling, part by part; writes what came of them to docs/results.md, to be committed.
#   full.sh [--again] [PART...]
# A part that failed does not stop the others. What has passed on this commit is not run again, but with --again.
# With names only those parts run (such as what failed, after its repair); the others keep their rows, each with
# the commit it ran on. `just` must be in PATH, as `./dev full` makes sure.
set -euo pipefail
cd "$(dirname "$0")/.."
export E2E=full
results=docs/results.md
commit=$(git rev-parse --short=12 HEAD)
again=""
if [ "${1:-}" = --again ]; then again=yes && shift; fi
# What is not committed has no name under which it could have passed before.
[ -z "$(git status --porcelain -- . ":!$results")" ] || { commit+=" and more" again=yes; }
rows=target/full/rows # a file per part: its row
only=("$@")
known=(lint unit images integration e2e-lib $(basename -a -s .rs tests/tests/*))
for name in "${only[@]}"; do
  [[ " ${known[*]} " = *" $name "* ]] || { echo "full: no part $name; there are: ${known[*]}" >&2; exit 2; }
done
mkdir -p "$rows" target/full/log

# Sums cargo's "test result: ok. N passed; N failed; N ignored" lines; Go says one `ok` per package.
counts() {
  awk '/^test result:/ { p += $4; f += $6; i += $8 }
    /^ok[ \t]/ { go++ } /^FAIL[ \t]/ { gofail++ }
    END { printf "%d | %d | %d | %d", p, f + gofail, i, go }' "$1"
}

failed=0
part() { # name, command...
  local name=$1 start=$SECONDS result=passed log=target/full/log/$1
  shift
  parts+=("$name")
  [ ${#only[@]} -eq 0 ] || [[ " ${only[*]} " = *" $name "* ]] || return 0
  [ -n "$again" ] || ! grep -qs "| passed |.*| $commit |" "$rows/$name" || return 0
  "$@" 2>&1 | tee "$log" || { result=FAILED failed=1; }
  echo "| $name | \`$*\` | $result | $(counts "$log") | $((SECONDS - start)) | $(date -u '+%m-%d %H:%M') |" \
    "$(cut -d' ' -f1 /proc/loadavg) | $commit |" >"$rows/.new"
  mv "$rows/.new" "$rows/$name"
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

Written by \`just full\` (tests/full.sh); commit it with what it tested. The time and the load are those at the end
of the part. A part whose commit is another one was not run again since.

- date: $(date -u +%Y-%m-%dT%H:%MZ)
- machine: $(nproc) processors, $(awk '/MemTotal/ { printf "%d", $2 / 1048576 + 0.5 }' /proc/meminfo) GiB
- K3s: $(sed -n 's/^standin = true$/stand-in/p' target/image.lock 2>/dev/null | head -n1 | grep . || echo "as in builder.lock")

| part | command | result | passed | failed | ignored | Go packages | seconds | at (UTC) | load | commit |
|---|---|---|---|---|---|---|---|---|---|---|
$(for name in "${parts[@]}"; do cat "$rows/$name" 2>/dev/null || echo "| $name | | not run | | | | | | | | |"; done)
EOF
cat "$results" >&2
exit "$failed"
