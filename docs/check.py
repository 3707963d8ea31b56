#!/usr/bin/env python3
"""Holds the documents against what they speak of; `just docs` runs it, `--write` renews packages.md.

1. profile.md names every key of docs/schema/*.json, and no other.
2. packages.md is the table that images/debian-13.toml gives.
3. Every relative link of every document leads somewhere.
4. traps.md has each trap once, with a test that is there, or "not tested" and why.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# How many traps each letter has.
TRAPS = {"J": 7, "E": 9, "P": 17, "B": 10, "R": 5, "H": 11}
SECTIONS = {"image": "images/NAME.toml", "profile": "profiles/NAME.toml", "cluster": "cluster/cluster.toml"}
BEGIN, END = "<!-- generated: docs/check.py --write -->\n", "<!-- end -->\n"


def keys(node, defs, path=""):
    """Dotted paths of every value a schema allows."""
    if "$ref" in node:
        node = defs[node["$ref"].rsplit("/", 1)[1]]
    if "properties" in node:
        for name, child in node["properties"].items():
            yield from keys(child, defs, f"{path}.{name}".lstrip("."))
    elif isinstance(node.get("additionalProperties"), dict):
        yield from keys(node["additionalProperties"], defs, f"{path}.NAME")
    elif node.get("type") == "array" and "$ref" in node["items"]:
        inner = list(keys(node["items"], defs, f"{path}[]"))
        yield from [path] if inner == [f"{path}[]"] else inner
    else:
        yield path


def check_keys():
    text = (ROOT / "docs/profile.md").read_text()
    for kind, title in SECTIONS.items():
        schema = json.loads((ROOT / f"docs/schema/{kind}.json").read_text())
        wanted = set(keys(schema, schema.get("$defs", {})))
        section = text.split(f"## `{title}`", 1)[-1].split("\n## ", 1)[0]
        found = set(re.findall(r"^\| `([^`]+)` \|", section, re.M))
        for name in sorted(wanted - found):
            yield f"docs/profile.md: {title}: the key {name} is missing"
        for name in sorted(found - wanted):
            yield f"docs/profile.md: {title}: there is no key {name}"


def package_table():
    path = ROOT / "images/debian-13.toml"
    image = tomllib.loads(path.read_text())
    rows = [f"| `{name}` | {why} |" for name, why in image["packages"].items()]
    tools = [f"| `{name}` | {why} |" for name, why in image["tools"].items()]
    masks = [f"| `{name}` | {why} |" for name, why in image["mask"].items()]
    head = lambda first: [f"| {first} | why |", "|---|---|"]
    parts = ["### In the image", "", *head("package"), f"| `{image['kernel']}` | the kernel |", *rows]
    parts += ["", "### In the tools tree, never in the image", "", *head("package"), *tools]
    parts += ["", "### Units that never run", "", *head("unit"), *masks]
    return BEGIN + "\n".join(parts) + "\n" + END


def check_packages(write):
    path = ROOT / "docs/packages.md"
    text = path.read_text()
    before, rest = text.split(BEGIN, 1)
    new = before + package_table() + rest.split(END, 1)[1]
    if write:
        path.write_text(new)
    elif new != text:
        yield "docs/packages.md: differs from images/debian-13.toml; run docs/check.py --write"


def check_links():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benches/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in link and not (path.parent / link).exists():
                yield f"{path.relative_to(ROOT)}: the link {link} leads nowhere"


def check_traps():
    rows = re.findall(r"^\| ([A-Z]\d+) \|(.*)\|(.*)\|(.*)\|$", (ROOT / "docs/traps.md").read_text(), re.M)
    wanted = [f"{letter}{n}" for letter, count in TRAPS.items() for n in range(1, count + 1)]
    if [row[0] for row in rows] != wanted:
        yield "docs/traps.md: its rows are not the traps, each once and in order"
    for name, trap, avoided, test in rows:
        places = re.findall(r"\]\(([^)]+)\)((?: `\w+`)*)", test)
        if not all(cell.strip() for cell in (trap, avoided)) or not (places or "not tested: " in test):
            yield f"docs/traps.md: {name} lacks words, or a test or why there is none"
        for link, names in places:
            path = ROOT / "docs" / link
            text = path.read_text() if path.is_file() else ""
            for one in re.findall(r"`(\w+)`", names):
                if not re.search(rf"\b(fn|func|def) {one}\b", text):
                    yield f"docs/traps.md: {name}: there is no test {one} in {link}"


problems = [*check_keys(), *check_packages("--write" in sys.argv), *check_links(), *check_traps()]
print("\n".join(problems) or "documents: as the schemas, images and files say", file=sys.stderr)
sys.exit(1 if problems else 0)
