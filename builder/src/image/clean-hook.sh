#!/bin/sh
# Runs in mmdebstrap's customize phase; $1 is the root. Removes what differs from host to host or
# from run to run, and everything that must be made anew on each node (traps P7, P8).
set -eu
r=$1
rm -f "$r"/etc/ssh/ssh_host_*_key "$r"/etc/ssh/ssh_host_*_key.pub
rm -f "$r"/etc/.resolv.conf.systemd-resolved.bak "$r"/etc/adjtime
printf 'localhost\n' > "$r/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > "$r/etc/hosts"
chmod 0644 "$r/etc/hostname" "$r/etc/hosts"
rm -f "$r"/etc/passwd- "$r"/etc/group- "$r"/etc/shadow- "$r"/etc/gshadow- "$r"/etc/subuid- "$r"/etc/subgid-
rm -f "$r"/var/cache/debconf/*-old "$r"/var/lib/dpkg/*-old
rm -f "$r"/var/lib/systemd/random-seed "$r"/var/lib/dbus/machine-id
rm -rf "$r"/var/lib/cloud/* "$r"/var/log/journal/* "$r"/var/cache/ldconfig/*
# The build's package source is a folder of this host; the overlay brings the node's own.
: > "$r/etc/apt/sources.list"
# Empty, not absent: systemd fills it in at boot and does not take that for a first boot.
: > "$r/etc/machine-id"
