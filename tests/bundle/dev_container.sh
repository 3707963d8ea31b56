#!/bin/sh
# A dev container's SSH with the real sshd, as its pod runs it: the user dev without any privilege, port
# 22, keys from a folder. One logs in with the right key alone, works in git worktrees, and gets git's
# credentials. In a network and with users of its own. Needs sshd, ssh and git.
set -eu
if [ "${1:-}" != inside ]; then
  others=""
  [ "$(id -u)" -eq 0 ] || others="--user --map-root-user --map-auto"
  exec unshare $others --net --mount sh "$0" inside
fi
image=$(cd "$(dirname "$0")/../../cluster/charts/dev-containers/image" && pwd)
work=$(mktemp -d)
checks=0
ok() { checks=$((checks + 1)); }
fail() { echo "dev container: $*" >&2; cat "$work/log" >&2; exit 1; }
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

ip link set lo up
# As the pod's sysctl does.
echo 22 >/proc/sys/net/ipv4/ip_unprivileged_port_start
mkdir -p "$work/keys" "$work/git" "$work/home" "$work/workspace"
echo "root:x:0:0::/root:/bin/sh
dev:x:1000:1000::$work/home:/bin/sh" >"$work/passwd"
echo "root:x:0:
dev:x:1000:" >"$work/group"
mount --bind "$work/passwd" /etc/passwd
mount --bind "$work/group" /etc/group
for key in mine other keys/ssh_host_ed25519_key; do ssh-keygen -q -t ed25519 -N '' -f "$work/$key"; done
cp "$work/mine.pub" "$work/keys/authorized_keys"
echo 'https://me:token-1@git.home.test' >"$work/git/credentials"
printf '[user]\n\tname = Dev\n\temail = dev@home.test\n' >"$work/git/identity"
for file in sshd_config gitconfig; do sed "s#/etc/dev-container#$work#; s#/workspace/#$work/workspace/#" "$image/$file" >"$work/$file"; done
cp "$work/gitconfig" "$work/home/.gitconfig"
chown -R 1000:1000 "$work"
# As the kubelet mounts Secrets: of root, with the pod's group, mode 0440.
chown 0:1000 "$work"/keys/* "$work"/git/*
chmod 0440 "$work"/keys/* "$work"/git/*
chown 0:0 "$work/mine" "$work/other"

sshd=$(command -v sshd || echo /usr/sbin/sshd)
# Known since OpenSSH 9.8; this host's may be older than the image's.
if "$sshd" -t -f "$work/sshd_config" 2>&1 | grep -q 'option: PerSourcePenalties'; then
  sed -i '/^PerSourcePenalties/d' "$work/sshd_config"
fi
setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
  "$sshd" -D -e -f "$work/sshd_config" >"$work/log" 2>&1 &
server=$!
login() {
  key=$1; shift
  ssh -q -F /dev/null -i "$work/$key" -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=5 \
    -o UserKnownHostsFile="$work/known" -o StrictHostKeyChecking=accept-new "$@"
}
for _ in 1 2 3 4 5 6 7 8 9 10; do login mine dev@127.0.0.1 true 2>/dev/null && break; sleep 0.5; done
[ "$(login mine dev@127.0.0.1 id -un)" = dev ] || fail "no login with the right key"
ok
if login other dev@127.0.0.1 true; then fail "a strange key opened"; fi
ok
if login mine root@127.0.0.1 true; then fail "root got in"; fi
ok
# Nobody gets more than the pod has, whatever program he starts.
[ "$(login mine dev@127.0.0.1 'grep -c "^NoNewPrivs:.1\|^CapBnd:.0*$" /proc/self/status')" = 2 ] || fail "a session has privileges"
ok
out=$(login mine dev@127.0.0.1 "set -e; cd $work/workspace; git init -q app; cd app; echo a >a; git add a; git commit -qm a
  git worktree add -q ../feature -b feature; cd ../feature; echo b >b; git add b; git commit -qm b; git log --format=%an%ae%s | tr '\n' ' '; git worktree list | wc -l") ||
  fail "git: $out"
[ "$out" = "Devdev@home.testb Devdev@home.testa 2" ] || fail "git said: $out"
ok
out=$(login mine dev@127.0.0.1 "printf 'protocol=https\nhost=git.home.test\n\n' | git credential fill | grep password")
[ "$out" = password=token-1 ] || fail "git's credentials are not there: $out"
ok
# VS Code copies files and forwards ports.
echo "put $image/gitconfig $work/home/copied" | sftp -q -F /dev/null -i "$work/mine" -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile="$work/known" dev@127.0.0.1 >/dev/null || fail "no sftp"
cmp -s "$image/gitconfig" "$work/home/copied" || fail "sftp lost something"
ok
# By itself, as killing a shell would leave its ssh.
ssh -q -F /dev/null -i "$work/mine" -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile="$work/known" \
  -N -L 9022:127.0.0.1:22 dev@127.0.0.1 >/dev/null 2>&1 & forward=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do login mine -p 9022 -o HostKeyAlias=127.0.0.1 dev@127.0.0.1 true 2>/dev/null && break; sleep 0.5; done
login mine -p 9022 -o HostKeyAlias=127.0.0.1 dev@127.0.0.1 true || fail "no forwarded port"
kill "$forward"
wait "$forward" || true
ok
echo "dev container: $checks checks passed"
