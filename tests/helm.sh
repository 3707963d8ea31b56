#!/bin/sh
# Builds helm, of the version in builder.lock, into target/helm/helm: it comes as a Go module too. What
# is there and of that version stays.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n '/^name = "helm"/,/^version/s/^version = "\(.*\)"/\1/p' builder.lock)
[ -n "$version" ] || { echo "builder.lock names no version of helm" >&2; exit 1; }
stamp="$version $(go env GOVERSION)"
[ "$(cat target/helm/STAMP 2>/dev/null)" = "$stamp" ] && [ -x target/helm/helm ] && exit 0
mkdir -p target/helm
exec 9>target/helm/.lock
flock 9
CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false' GOBIN="$PWD/target/helm" \
  go install -ldflags '-s -w' "helm.sh/helm/v4/cmd/helm@$version"
echo "$stamp" >target/helm/STAMP
