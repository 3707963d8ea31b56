# Looks at each NFS mount of this node and writes what it saw for node_exporter. Run by busybox's sh.
# A mount of a dead server hangs whoever touches it, so a program of its own does, and is killed.
set -u
out=/textfile/nfs.prom
if [ "${1:-}" = alive ]; then
  age=$(($(busybox date +%s) - $(busybox stat -c %Y "$out")))
  [ "$age" -lt $((3 * (INTERVAL + LIMIT))) ]
  exit
fi
trap 'exit 0' TERM INT
last=
while :; do
  mounts= ups= said=
  for name in $EXPORTS; do
    mounted=0 up=0
    busybox grep -q " /srv/nfs/$name nfs4\? " /proc/self/mounts && mounted=1
    if [ $mounted = 1 ] && busybox timeout -s KILL "$LIMIT" busybox stat -f "/srv/nfs/$name" >/dev/null 2>&1; then
      up=1
    fi
    mounts="${mounts}node_nfs_mounted{export=\"$name\"} $mounted
"
    ups="${ups}node_nfs_up{export=\"$name\"} $up
"
    said="$said $name=mounted:$mounted,up:$up"
  done
  {
    echo "# HELP node_nfs_mounted Whether the export is mounted on this node."
    echo "# TYPE node_nfs_mounted gauge"
    busybox printf '%s' "$mounts"
    echo "# HELP node_nfs_up Whether the mount answered within the limit."
    echo "# TYPE node_nfs_up gauge"
    busybox printf '%s' "$ups"
    echo "# HELP node_nfs_checked_timestamp_seconds When the mounts were last looked at."
    echo "# TYPE node_nfs_checked_timestamp_seconds gauge"
    echo "node_nfs_checked_timestamp_seconds $(busybox date +%s)"
  } >"$out.tmp" && busybox mv "$out.tmp" "$out"
  [ "$said" = "$last" ] || echo "nfs:$said"
  last=$said
  busybox sleep "$INTERVAL" &
  wait $!
done
