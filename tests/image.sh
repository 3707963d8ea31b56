#!/bin/sh
# Builds the image of a profile on a machine that may not reach everything: with the lock's real
# K3s where it can be downloaded, else with the stand-in; with the charts that are to be had; with
# the lock's packages where the mirror still has them, else with what it has now. Each departure is
# said in a line, and the lock in use is target/image.lock: builder.lock stays as it is.
set -eu
cd "$(dirname "$0")/.."
profile=$1
builder=target/release/builder
lock=target/image.lock
log=target/image.log
rm -f "$lock"

"$builder" --quiet lock --output "$lock" 2>"$log" || { cat "$log" >&2; exit 1; }
if ! "$builder" fetch --packages --lock "$lock" --deadline 30s 2>"$log"; then
  cat "$log" >&2
  echo "The mirror has moved on since builder.lock was written; going on with its packages of today." >&2
  "$builder" lock --output "$lock" --update
fi
# Charts come from elsewhere than K3s: one that cannot be had costs its releases only.
charts=$(sed -n '/^name = /{s/^name = "\(.*\)"/\1/;h};/^kind = "chart"/{x;p}' builder.lock)
have() { "$builder" fetch --lock "$lock" --deadline 10s "$@" 2>"$log"; }
why() { tail -n 1 "$log"; }
standins=
if ! have k3s k3s-airgap-images helm; then
  echo "The K3s release cannot be downloaded here ($(why)); going on with the stand-in." >&2
  tests/k3s-standin/build.sh
  tests/helm.sh
  standin=target/k3s-standin
  standins="--standin helm=target/helm/helm --standin k3s=$standin/k3s"
  standins="$standins --standin k3s-airgap-images=$standin/k3s-airgap-images.tar"
  for chart in $charts; do standins="$standins --standin $chart=none"; done
elif ! have --artifacts; then
  for chart in $charts; do
    have "$chart" && continue
    echo "The chart $chart cannot be downloaded here ($(why)); going on without its releases." >&2
    standins="$standins --standin $chart=none"
  done
fi
# shellcheck disable=SC2086 # words
[ -z "$standins" ] || "$builder" --quiet lock --output "$lock" $standins
if [ "$profile" = all ]; then set -- --all; else set -- --profile "$profile"; fi
exec "$builder" image "$@" --lock "$lock"
