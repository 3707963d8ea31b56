#!/bin/sh
# The speed table: builder and mkosi with the same packages, in one run; writes benches/results.md.
#   run.sh [--runs N] [--boots N] [--no-mkosi]       (see benches/README.md)
# BUILDER and FIRSTBOOT name other programs than those of `just build`.
set -eu
cd "$(dirname "$0")/.."
top=$PWD
work=$top/target/bench
builder=${BUILDER:-$top/target/release/builder}
firstboot=${FIRSTBOOT:-$top/target/x86_64-unknown-linux-gnu/release/firstboot}
for need in "$builder" "$firstboot"; do
  [ -x "$need" ] || { echo "bench: $need is missing; run \`just build\`" >&2; exit 2; }
done
command -v python3 >/dev/null || { echo "bench: install the package python3" >&2; exit 2; }
if [ "$(id -u)" -ne 0 ]; then set -- "$@" --no-mkosi; fi # its root file system needs root
case " $* " in *" --no-mkosi "*) ;; *) benches/mkosi.sh prepare "$work/mkosi" ;; esac

# The stand-in in both halves: the release may not be reachable, and the bytes to move are as many.
standin=${STANDIN:-$top/target/k3s-standin}
[ -x "$standin/k3s" ] || tests/k3s-standin/build.sh

# A project, a cache and an output folder of its own: what is measured here changes nothing else.
rm -rf "$work/project" "$work/cold"
mkdir -p "$work/project"
cp -r images profiles cluster builder.lock "$work/project/"
export BUILDER_CACHE="$work/cache"
"$builder" --quiet --root "$work/project" check
if ! "$builder" --quiet --root "$work/project" fetch --packages; then
  echo "bench: the mirror has moved on; measuring with its packages of today" >&2
  "$builder" --quiet --root "$work/project" lock --update
fi
exec nice python3 benches/table.py "$work" "$builder" "$firstboot" "$standin/k3s" "$@"
