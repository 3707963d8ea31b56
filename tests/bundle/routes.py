#!/usr/bin/env python3
"""Holds Alertmanager's configuration by the real amtool, as the chart renders it for each receiver:
it is valid, and an alert of each kind goes where it should, as fast as it should.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parents[2] / "cluster/charts/home-monitoring"
# What Alertmanager's own types call the ways of telling.
WAYS = {"ntfy": "webhook_configs", "pushover": "pushover_configs", "slack": "slack_configs", "none": None}
ROUTES = {
    "alertname=NodeDown priority=P1 severity=critical": "P1",
    "alertname=NodeNotReady priority=P2 severity=critical": "P2",
    "alertname=DiskSpaceWarning priority=P3 severity=warning": "P3",
    # Rules of the charts.
    "alertname=etcdNoLeader severity=critical": "P2",
    "alertname=CPUThrottlingHigh severity=info": "nobody",
    "alertname=KubeJobFailed severity=warning": "P3",
    "alertname=Watchdog severity=none": "nobody",
    "alertname=InfoInhibitor severity=none": "nobody",
    "alertname=Unknown": "P3",
}
# Labels of an alert, of another one, and whether the first silences the second. A rule of node-exporter's
# metrics has `node` by the values of kube-prometheus-stack; TargetDown counts by job and has none.
SILENCED = [
    ("alertname=NodeDown node=a cluster=home", "alertname=NodeNotReady node=a cluster=home", True),
    ("alertname=NodeDown node=a cluster=home", "alertname=NodeNotReady node=b cluster=home", False),
    ("alertname=NodeDown node=a cluster=home", "alertname=TargetDown job=kubelet cluster=home", True),
    ("alertname=NodeDown node=a cluster=home", "alertname=PostgresDown cluster=home", False),
]
VALUES = CHART.parents[1] / "monitoring/kube-prometheus-stack/values-homelab.yaml.tera"


def run(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def render(receiver):
    code, out, err = run("helm", "template", "home-monitoring", CHART, "--namespace", "monitoring",
                         "--set", f"receiver={receiver}", "--show-only", "templates/routes.yaml")
    assert code == 0, err
    return yaml.safe_load(out)["stringData"]["alertmanager.yaml"]


def secrets(text):
    """Whatever looks like an address or a token where only names of files belong."""
    for line in text.splitlines():
        key, _, value = line.strip().partition(": ")
        if re.search(r"(url|token|user_key|password|credentials)$", key) and value:
            yield f"{key} is no file"


def fits(matchers, labels):
    for matcher in matchers:
        name, sign, value = re.fullmatch(r'(\w+) (=~?) "(.*)"', matcher).groups()
        if not re.fullmatch(value if sign == "=~" else re.escape(value), labels.get(name, "")):
            return False
    return True


def inhibitions(config):
    """As Alertmanager does it: a label that is missing is as good as an empty one."""
    labels = lambda text: dict(word.split("=") for word in text.split())
    for source, target, wanted in SILENCED:
        source, target = labels(source), labels(target)
        found = any(fits(rule["source_matchers"], source) and fits(rule["target_matchers"], target)
                    and all(source.get(n, "") == target.get(n, "") for n in rule["equal"])
                    for rule in config["inhibit_rules"])
        if found != wanted:
            yield f"{source} {'silences' if found else 'does not silence'} {target}"
    if "targetLabel: node}" not in VALUES.read_text():
        yield "node-exporter's metrics have no label `node`, which NodeDown needs"


def check(receiver, folder):
    text = render(receiver)
    path = Path(folder) / f"{receiver}.yaml"
    path.write_text(text)
    config = yaml.safe_load(text)
    code, out, err = run("amtool", "check-config", path)
    if code:
        yield out + err
    yield from secrets(text)
    for known in config["receivers"]:
        ways = sorted(known.keys() - {"name"})
        wanted = [WAYS[receiver]] if WAYS[receiver] and known["name"] != "nobody" else []
        if ways != wanted:
            yield f"{known['name']} tells by {ways}, not by {wanted}"
        for way in wanted:
            if not all(one["send_resolved"] for one in known[way]):
                yield f"{known['name']} does not tell that it is over"
    yield from inhibitions(config)
    for labels, wanted in ROUTES.items():
        code, out, err = run("amtool", "config", "routes", "test", f"--config.file={path}", *labels.split())
        if code or out.strip() != wanted:
            yield f"{labels} goes to {out.strip() or err}, not to {wanted}"


def main():
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for receiver in WAYS:
            found += [f"{receiver}: {problem}" for problem in check(receiver, folder)]
    code, _, err = run("helm", "template", CHART, "--set", "receiver=fax")
    if code == 0 or "receiver" not in err:
        found.append("the chart's schema takes a receiver that does not exist")
    print(*found, sep="\n", end="\n" if found else "")
    print(f"routes: {len(WAYS)} receivers, {len(WAYS) * len(ROUTES)} alerts sent on their way; {len(found)} problems")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    main()
