#!/bin/sh
# Builds the stand-in into target/k3s-standin (or $OUT). Equal sources give equal bytes and are not built twice.
# With $VERSION the same Kubernetes says that it is another one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/../../target/k3s-standin}
version=${VERSION:-v1.36.3+k3s-standin}
cd "$here"
stamp=$( { go env GOVERSION; echo "$version"; find . -type f ! -name '*.md' ! -name '*_test.go' | LC_ALL=C sort |
	xargs sha256sum; } | sha256sum | cut -d' ' -f1)
built() { [ "$(cat "$out/STAMP" 2>/dev/null)" = "$stamp" ]; }
if built; then exit 0; fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.lock"
flock 9
if built; then exit 0; fi # another build was faster
work=$out/.work
rm -rf "$work"
mkdir -p "$work/bin" "$work/src" "$work/pause" "$work/hello"
export GOFLAGS='-trimpath -buildvcs=false -mod=readonly' CGO_ENABLED=0

# runc needs C for its first steps inside a container, and seccomp for pods that ask for the default profile.
if ! [ -e /usr/include/seccomp.h ] || ! command -v gcc >/dev/null; then
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev libseccomp-dev pkg-config
fi
containerd=github.com/containerd/containerd/v2
(cd runtime
	v=$(go list -m -f '{{.Version}}' $containerd)
	go build -tags 'no_btrfs no_zfs no_devmapper no_aufs netgo osusergo urfave_cli_no_docs' -o "$work/bin/" \
		-ldflags "-s -w -buildid= -X $containerd/version.Version=${v#v}+k3s-standin" \
		$containerd/cmd/containerd $containerd/cmd/containerd-shim-runc-v2 $containerd/cmd/ctr
	plugins=github.com/containernetworking/plugins/plugins
	go build -ldflags '-s -w -buildid=' -o "$work/bin/" \
		$plugins/main/bridge $plugins/main/loopback $plugins/ipam/host-local $plugins/meta/portmap
	v=$(go list -m -f '{{.Version}}' github.com/opencontainers/runc)
	CGO_ENABLED=1 go build -tags 'seccomp netgo osusergo urfave_cli_no_docs' -o "$work/bin/" \
		-ldflags "-s -w -buildid= -X main.version=${v#v}+k3s-standin -extldflags -static" github.com/opencontainers/runc)
go build -ldflags '-s -w -buildid=' -o "$work/pause/pause" ./image/pause
go build -ldflags '-s -w -buildid=' -o "$work/hello/hello" ./image/hello
# Debian's static one under the name of K3s' set, for the bundle's own checks.
(cd "$work"
	apt-get download -qq busybox-static 2>/dev/null || { apt-get update -qq && apt-get download -qq busybox-static; }
	dpkg-deb -x busybox-static_*.deb busybox)
go run ./pack images "$work/k3s-airgap-images.tar" \
	"rancher/mirrored-pause:3.10.2=$work/pause/pause" "docker.io/library/standin-hello:1=$work/hello/hello" \
	"docker.io/rancher/mirrored-library-busybox:1.37.0=$work/busybox/bin/busybox"

cp -r . "$work/src" # the helper programs become part of the source, in a copy
go run ./pack payload "$work/bin" "$work/src/payload"
v=k8s.io/component-base/version
(cd "$work/src" && go build -o "$work/k3s" -ldflags "-s -w -buildid= -X $v.gitVersion=$version \
	-X $v.gitMajor=1 -X $v.gitMinor=36 -X $v.gitTreeState=clean -X $v.buildDate=1970-01-01T00:00:00Z" .)
echo "$version" >"$work/VERSION" && echo "$stamp" >"$work/STAMP"
for file in k3s k3s-airgap-images.tar VERSION STAMP; do mv "$work/$file" "$out/$file"; done
rm -rf "$work"
