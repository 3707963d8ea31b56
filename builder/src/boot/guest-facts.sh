#!/bin/sh
# Runs in the guest of `builder boot`, brought in by systemd credentials (inject.rs): waits for
# firstboot's report, gathers facts, judges nothing (checks.rs does), and sends one frame:
#   BOOT-FACTS NONCE LENGTH SHA256 EPOCH \n  LENGTH bytes of JSON lines  BOOT-FACTS-END NONCE \n
report=/run/firstboot/report.json
facts=/run/boot-test/facts
state() { sed -n 's/.*"state": *"\([a-z]*\)".*/\1/p' "$report" 2>/dev/null; }
left() { read -r up _ </proc/uptime; echo $((BOOT_LIMIT - ${up%.*})); }
until case "$BOOT_STATES" in *" $(state) "*) true ;; *) [ "$(left)" -le 0 ] ;; esac; do sleep 1; done
# Units still starting are neither failed nor fine: let the boot settle first, if it may at all.
rest=$(left) && [ "$(state)" = failed ] && [ "$rest" -gt 30 ] && rest=30
timeout $((rest > 5 ? rest : 5)) systemctl is-system-running --wait >/dev/null 2>&1

fact() { # name, shell text
    text=$(timeout 20 sh -c "$2" 2>&1)
    printf '{"fact":"%s","status":%d,"base64":"%s"}\n' "$1" $? "$(printf %s "$text" | base64 -w0)"
}
born=$(sed -n 's/^btime //p' /proc/stat)
{
    fact report "cat $report"
    fact system 'systemctl is-system-running; systemctl list-jobs --plain --no-legend'
    fact failed 'systemctl list-units --failed --plain --no-legend'
    fact born "echo $born"
    fact machine-id 'cat /etc/machine-id; stat -c %Y /etc/machine-id'
    fact host-keys 'stat -c "%Y %n" /etc/ssh/ssh_host_*_key'
    fact instance-id 'cat /var/lib/cloud/data/instance-id'
    fact cloud-init 'cat /run/cloud-init/result.json'
    fact ports 'ss -Hlntu'
    fact root 'df -B1 --output=size,used / | tail -n1'
    fact os-release 'cat /etc/os-release'
    fact hostname 'cat /proc/sys/kernel/hostname'
    fact old-logs "find /var/log -type f -size +0 ! -newermt @$born"
    fact journals 'journalctl -q --list-boots --no-pager | wc -l'
    fact network 'ip -4 -o addr; ip -4 route'
    fact login 'systemctl show -P ActiveEnterTimestampMonotonic ssh.service serial-getty@ttyS0.service'
    fact analyze 'systemd-analyze time | head -n1'
    fact memory 'head -n3 /proc/meminfo'
    fact packages 'dpkg-query -f ".\n" -W | wc -l'
    fact journal "journalctl -q -b --no-pager -o short-monotonic -n 60 -u 'firstboot*' -u 'k3s*' -p info"
    fact errors 'journalctl -q -b --no-pager -o short-monotonic -n 30 -p err'
} >"$facts"
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
for try in 1 2 3; do # --foreground: this port is now our terminal, and a group behind may not read
    sum=$(sha256sum <"$facts") && printf '\nBOOT-FACTS %s %d %s %s\n' "$BOOT_NONCE" \
        "$(wc -c <"$facts")" "${sum%% *}" "$(date +%s.%N)" >&3 &&
        cat "$facts" >&3 && printf 'BOOT-FACTS-END %s\n' "$BOOT_NONCE" >&3
    case "$(timeout --foreground 20 head -n1 <&3)" in "KEEP $BOOT_NONCE") exit 0 ;; "END $BOOT_NONCE") break ;; esac
done
# The credential folder allows no execution. QEMU ends here with its own status.
install -m 700 "$CREDENTIALS_DIRECTORY/boot-test.exit" /var/tmp/ && /var/tmp/boot-test.exit
