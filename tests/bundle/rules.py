#!/usr/bin/env python3
"""Holds the alert rules by the real promtool: syntax, and for every alert a case in which it fires and
one in which it does not (alerts.yaml). Each has a priority, a summary and a runbook that exists; P1
fires within 30 s of the breach. Every expression of the dashboards is one that Prometheus reads.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "cluster/charts/home-monitoring"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def promtool(*words):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


def seconds(text):
    return sum(int(n) * UNITS[u] for n, u in re.findall(r"(\d+)([smhd])", text))


def load():
    """All alerting rules by name, with the file of each and how often it is evaluated, if its group says."""
    rules = {}
    for file in sorted((CHART / "rules").glob("*.yaml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                if rule["alert"] in rules:
                    yield f"{rule['alert']} stands in {file.name} and {rules[rule['alert']][1]}", None
                rules[rule["alert"]] = (rule, file.name, group.get("interval"))
    yield None, rules


def texts(rules):
    """What each rule tells people."""
    for name, (rule, file, _) in rules.items():
        labels, notes = rule["labels"], rule["annotations"]
        if labels.get("priority") not in {"P1", "P2", "P3"} or labels.get("severity") not in {"critical", "warning", "info"}:
            yield f"{file}: {name} has no priority or severity"
        if labels.get("priority") == "P1" and labels.get("severity") != "critical":
            yield f"{file}: {name} is P1 and not critical"
        missing = {"summary", "description", "runbook"} - notes.keys()
        if missing:
            yield f"{file}: {name} has no {', '.join(missing)}"
        elif not (ROOT / "docs/runbooks" / notes["runbook"]).is_file():
            yield f"{file}: {name}: there is no docs/runbooks/{notes['runbook']}"


def case(name, interval, given, firing):
    """One test of promtool."""
    series = [{"series": s, "values": str(v)} for s, v in given["series"].items()]
    expr = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
    wanted = [{"labels": "{}", "value": int(firing)}]
    asked = [{"expr": expr, "eval_time": given["at"], "exp_samples": wanted}]
    return {"interval": interval, "input_series": series, "promql_expr_test": asked}


def suites(rules, cases):
    """A test file for each interval of evaluation, and what is missing or late in the cases."""
    problems, by_interval = [], {}
    problems += [f"alerts.yaml: there is no alert {name}" for name in cases.keys() - rules.keys()]
    problems += [f"alerts.yaml: the alert {name} has no case" for name in rules.keys() - cases.keys()]
    for name in rules.keys() & cases.keys():
        found, interval = cases[name], cases[name].get("interval", "15s")
        for word in sorted(found.keys() - {"interval"}):
            firing = word.startswith("fires")
            evaluated = rules[name][2] or interval
            by_interval.setdefault(evaluated, []).append(case(name, interval, found[word], firing))
            late = firing and rules[name][0]["labels"]["priority"] == "P1"
            if late and seconds(found[word]["at"]) - seconds(found[word].get("breach", "0s")) > 30:
                problems.append(f"alerts.yaml: {name} is P1 and must fire within 30 s of the breach")
        if not {"fires", "silent"} <= found.keys():
            problems.append(f"alerts.yaml: {name} needs `fires` and `silent`")
    return problems, by_interval


def unit_tests(by_interval, folder):
    files = [str(f) for f in sorted((CHART / "rules").glob("*.yaml"))]
    for interval, tests in by_interval.items():
        suite = {"rule_files": files, "evaluation_interval": interval, "tests": tests}
        path = folder / f"{interval}.yaml"
        path.write_text(yaml.safe_dump(suite))
        good, said = promtool("test", "rules", path)
        if not good:
            yield said


def dashboards(folder):
    """Every expression as a recording rule, so that promtool parses it; ids and titles are unique."""
    rules, uids, problems = [], {}, []
    for file in sorted((CHART / "dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        if uids.setdefault(board["uid"], file.name) != file.name:
            problems.append(f"{file.name}: its uid is that of {uids[board['uid']]}")
        ids = [panel["id"] for panel in board["panels"]]
        if len(ids) != len(set(ids)) or not board["title"] or not ids:
            problems.append(f"{file.name}: a panel's id stands twice, or it has no title or panels")
        for panel in board["panels"]:
            place = panel["gridPos"]
            if place["x"] + place["w"] > 24 or not panel["targets"] or not panel["title"]:
                problems.append(f"{file.name}: the panel {panel['title']!r} is too wide or empty")
            rules += [{"record": f"board:{len(rules)}:{n}", "expr": t["expr"]} for n, t in enumerate(panel["targets"])]
    path = folder / "dashboards.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    good, said = promtool("check", "rules", path)
    return problems + ([] if good else [said]), len(uids), len(rules)


def main():
    *problems, (_, rules) = load()
    problems = [p for p, _ in problems]
    good, said = promtool("check", "rules", *sorted((CHART / "rules").glob("*.yaml")))
    problems += [] if good else [said]
    problems += texts(rules)
    cases = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text())
    missing, by_interval = suites(rules, cases)
    problems += missing
    with tempfile.TemporaryDirectory() as folder:
        problems += unit_tests(by_interval, Path(folder))
        wrong, boards, expressions = dashboards(Path(folder))
        problems += wrong
    print(*problems, sep="\n", end="\n" if problems else "")
    count = sum(map(len, by_interval.values()))
    first = sum(rule["labels"].get("priority") == "P1" for rule, *_ in rules.values())
    print(f"rules: {len(rules)} alerts, {first} of them P1, {count} cases; {boards} dashboards with {expressions} expressions; {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
