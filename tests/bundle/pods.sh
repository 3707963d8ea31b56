#!/bin/sh
# Makes target/pods/root.tar, the root file system of all images that the test `pods` runs: Debian's
# packages of the programs that the charts run, unpacked but not configured, and a few files. What is there
# and of this script stays. Prints where it lies. Needs mmdebstrap.
set -eu
cd "$(dirname "$0")/../.."
if [ "${1:-}" = finish ]; then # as mmdebstrap's hook, with the unpacked packages
  root=$2
  # What no test runs: manuals, translations, the compiler of PostgreSQL's JIT.
  cd "$root/usr"
  rm -rf share/doc share/locale share/i18n share/man share/javascript share/perl lib/*/perl bin/promtool bin/amtool \
    lib/*/libLLVM* lib/*/libz3*
  cd "$OLDPWD"
  for file in passwd group; do cp "$root/usr/share/base-passwd/$file.master" "$root/etc/$file"; done
  for user in postgres:999 nginx:101 dev:1000; do
    echo "${user%:*}:x:${user#*:}:${user#*:}::/home/${user%:*}:/bin/bash" >>"$root/etc/passwd"
    echo "${user%:*}:x:${user#*:}:" >>"$root/etc/group"
  done
  ln -sf mawk "$root/usr/bin/awk"
  ldconfig -r "$root"
  mkdir -p "$root/workspace" "$root/home/dev" "$root/etc/dev-container"
  cp cluster/charts/dev-containers/image/sshd_config cluster/charts/dev-containers/image/gitconfig "$root/etc/dev-container"
  ln -s /etc/dev-container/gitconfig "$root/etc/gitconfig"
  cp tests/bundle/postgres-entrypoint.sh "$root/usr/bin"
  exit
fi
to=target/pods
stamp=$(cat tests/bundle/pods.sh tests/bundle/postgres-entrypoint.sh cluster/charts/dev-containers/image/* | sha256sum)
mkdir -p "$to"
exec 9>"$to/.lock"
flock 9
if [ "$(cat "$to/STAMP" 2>/dev/null)" != "$stamp" ] || [ ! -f "$to/root.tar" ]; then
  rm -f "$to/STAMP"
  mmdebstrap --quiet --variant=extract --format=tar --aptopt='APT::Install-Recommends "false"' \
    --include=base-files,base-passwd,bash,dash,coreutils,findutils,gzip,sed,grep,mawk,hostname,netbase,libc-bin \
    --include=postgresql-17,prometheus-postgres-exporter,dnsmasq-base,nginx-light,libnginx-mod-stream \
    --include=openssh-server,git,prometheus,prometheus-alertmanager,valkey-server \
    --extract-hook="'$PWD/tests/bundle/pods.sh' finish \"\$1\"" trixie "$to/root.tar.part" >&2
  mv "$to/root.tar.part" "$to/root.tar"
  echo "$stamp" >"$to/STAMP"
fi
echo "$PWD/$to/root.tar"
