#!/usr/bin/env python3
"""Adds up for every P1 rule, as the charts render it, how long it takes at worst from a failure to the
message, and holds the sum to the minute of NFR5 (ADR-039). The way of the message itself is not in it.
"""

import math
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "cluster/monitoring/kube-prometheus-stack/values-homelab.yaml.tera"
LIMIT = 60
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# When a target is no longer listed, Prometheus ends its series after two scrapes and a tenth.
GONE = 2.1


def seconds(text):
    parts = re.findall(r"(\d+)([smhd])", text)
    assert "".join(map("".join, parts)) == text, f"{text} is no duration"
    return sum(int(n) * UNITS[u] for n, u in parts)


def rendered(chart, *words):
    command = ["helm", "template", chart, ROOT / "cluster/charts" / chart, "--namespace", "monitoring", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [o for o in yaml.safe_load_all(done.stdout) if o]


def setting(name):
    """A duration of Prometheus' own settings, which stands there once."""
    found = re.findall(rf"^ +{name}: (\w+)$", PROMETHEUS.read_text(), re.MULTILINE)
    assert len(found) == 1, f"{name} stands {len(found)} times in {PROMETHEUS.name}"
    return seconds(found[0])


def told(objects):
    """From a firing P1 to its message: whether it is the first of its group or joins one."""
    text = next(o for o in objects if o["kind"] == "Secret")["stringData"]["alertmanager.yaml"]
    top = yaml.safe_load(text)["route"]
    ways = [route for route in top["routes"] if 'priority = "P1"' in route.get("matchers", [])]
    assert len(ways) == 1, f"{len(ways)} routes are for P1"
    return max(seconds(ways[0].get(word, top[word])) for word in ("group_wait", "group_interval"))


def looked():
    """From an NFS server's end to the line of nfs-health that says so."""
    objects = rendered("nfs-health", "--set", "exports={data}")
    container = next(o for o in objects if o["kind"] == "DaemonSet")["spec"]["template"]["spec"]["containers"][0]
    env = {e["name"]: e["value"] for e in container["env"]}
    return int(env["INTERVAL"]) + int(env["LIMIT"])


def seen(rule):
    """From a failure to the sample, or its absence, that the rule is about."""
    scrape, timeout = setting("scrapeInterval"), setting("scrapeTimeout")
    if "node_nfs_" in rule["expr"]:
        return looked() + scrape
    # What does not answer is known to when the scrape's time is over.
    late = scrape + timeout
    # `up` is written as long as there is a target; of others only the end is.
    gone = re.search(r"absent\((?!up\b)", rule["expr"])
    return max(late, scrape * GONE) if gone else late


def main():
    objects = rendered("home-monitoring")
    groups = [g for o in objects if o["kind"] == "PrometheusRule" for g in o["spec"]["groups"]]
    problems, sums = [], {}
    for group in groups:
        every = seconds(group["interval"]) if "interval" in group else setting("evaluationInterval")
        for rule in group["rules"]:
            if rule["labels"]["priority"] == "P1":
                held = math.ceil(seconds(rule.get("for", "0s")) / every) * every
                parts = [seen(rule), every, held, told(objects)]
                sums[rule["alert"]] = sum(parts)
                print(f"  {rule['alert']}: seen {parts[0]:g} s, evaluated {every} s, held {held} s, told {parts[3]} s: {sum(parts):g} s")
    problems += [f"{name} takes up to {total:g} s, {LIMIT} are allowed" for name, total in sums.items() if total > LIMIT]
    problems += [] if sums else ["there is no P1 rule"]
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"times: {len(sums)} P1 rules, the longest takes {max(sums.values(), default=0):g} s; {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
