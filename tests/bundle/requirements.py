#!/usr/bin/env python3
"""Holds docs/requirements.md: each requirement once, every link to something that exists, a status that
fits the row. Holds docs/services.md: every release of the bundle stands in it. Holds the runbooks' index.
"""

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WANTED = [f"FR{n}" for n in range(1, 64)] + [f"NFR{n}" for n in range(1, 28)]
STATES = ("done", "partly: ", "operator", "not yet")


def rows(text):
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"N?FR\d+", cells[0]):
            yield cells


def table():
    found = list(rows((DOCS / "requirements.md").read_text()))
    counts = Counter(row[0] for row in found)
    yield from (f"{name}: {counts[name]} rows instead of one" for name in WANTED if counts[name] != 1)
    yield from (f"{name}: there is no such requirement" for name in counts if name not in WANTED)
    for row in found:
        if len(row) != 6:
            yield f"{row[0]}: {len(row)} columns instead of 6"
            continue
        name, what, where, test, runbook, status = row
        for target in re.findall(r"\]\(([^)]+)\)", where + test + runbook):
            if not (DOCS / target).resolve().exists():
                yield f"{name}: {target} does not exist"
        if not status.startswith(STATES) or not what:
            yield f"{name}: the status {status!r} is none of {', '.join(STATES)}"
        if status.startswith(("done", "partly")) and not (where and test):
            yield f"{name}: {status.split(':')[0]}, and it does not say where or by which test"
        if status.startswith("operator") and not runbook:
            yield f"{name}: the operator's, and there is no runbook"


def services():
    text = (DOCS / "services.md").read_text()
    for file in sorted((ROOT / "cluster").glob("*/*/release.toml")):
        name = f"{file.parent.parent.name}/{file.parent.name}"
        if f"| `{name}` |" not in text:
            yield f"docs/services.md: the release {name} is missing"


def runbooks():
    text = (DOCS / "runbooks/README.md").read_text()
    for file in sorted((DOCS / "runbooks").glob("*.md")):
        if file.name != "README.md" and f"({file.name})" not in text:
            yield f"docs/runbooks/README.md: {file.name} is missing"


def main():
    found = [*table(), *services(), *runbooks()]
    print(*found, sep="\n", end="\n" if found else "")
    states = Counter(row[-1].split(":")[0] for row in rows((DOCS / "requirements.md").read_text()))
    print(f"requirements: {sum(states.values())} rows, {dict(states)}; {len(found)} problems")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
