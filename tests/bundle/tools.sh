#!/bin/sh
# Prints a folder with the versions of helm and amtool that the bundle uses, built as Go modules where
# they are missing. Debian's amtool is older than the Alertmanager of the chart and refuses its settings.
set -eu
cd "$(dirname "$0")/../.."
helm=$(sed -n '/^name = "helm"/,/^version/s/^version = "\(.*\)"/\1/p' builder.lock)
amtool=v0.33.1
tools=$PWD/target/bundle-tools/$helm-$amtool
export CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false' GOBIN="$tools"
[ -x "$tools/helm" ] || go install -ldflags '-s -w' "helm.sh/helm/v4/cmd/helm@$helm" >&2
[ -x "$tools/amtool" ] || go install -ldflags '-s -w' "github.com/prometheus/alertmanager/cmd/amtool@$amtool" >&2
echo "$tools"
