#!/bin/sh
# mkosi from Debian 13's packages, in a root file system of its own. Needs root.
#   mkosi.sh prepare DIR          makes DIR/root and DIR/project
#   mkosi.sh build DIR ARGS…      runs mkosi there; DIR/project is its folder
set -eu
here=$(cd "$(dirname "$0")" && pwd)
action=$1
dir=$(mkdir -p "$2" && cd "$2" && pwd)
shift 2
root=$dir/root
project=$dir/project
# The host's own mirrors, read now: no address stands in a file of this repository.
mirror() { apt-get indextargets --format '$(REPO_URI)' | sort -u | grep -- "/$1/*\$" | head -n1; }

prepare() {
  mkdir -p "$project/mkosi.sandbox/etc/apt/sources.list.d" "$project/mkosi.conf.d"
  if ! [ -x "$root/usr/bin/mkosi" ]; then
    rm -rf "$root"
    mmdebstrap --quiet --variant=apt trixie "$root.new" "deb $(mirror debian) trixie main" \
      --include=mkosi,systemd-repart,systemd,dosfstools,e2fsprogs,mtools,cpio,zstd,kmod,uidmap,util-linux \
      --include=grub-pc-bin,grub-efi-amd64-bin,grub-common,debian-archive-keyring,ca-certificates,bubblewrap
    mv "$root.new" "$root"
  fi
  cp "$here/mkosi.conf" "$project/"
  # mkosi asks for a suite of debug packages, which many mirrors lack: the same sources without it.
  for source in "debian trixie trixie-updates" "debian-security trixie-security"; do
    # shellcheck disable=SC2086 # words on purpose
    set -- $source
    uri=$(mirror "$1")
    [ -n "$uri" ] || continue
    shift
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n' "$uri" "$*" \
      /usr/share/keyrings/debian-archive-keyring.gpg
  done >"$project/mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  mkdir -p "$root/project"
}

if [ "$action" = prepare ]; then prepare; exit; fi
# mkosi mounts over /, so that must be a mount point and not a folder of a chroot.
export root project
exec unshare --mount --propagation private sh -euc '
  mount --bind "$root" "$root" && mount --bind "$project" "$root/project"
  for fs in dev proc sys; do mount --rbind "/$fs" "$root/$fs"; done
  mount -t tmpfs tmpfs "$root/tmp"
  cd "$root" && pivot_root . mnt && umount --lazy /mnt && cd /project && exec mkosi "$@"
' sh "$@"
