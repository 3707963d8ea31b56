#!/usr/bin/env python3
"""Checks Kubernetes objects, as `helm template` gives them, for what the API server would refuse.

schemas.py [--schemas FOLDER] FILE.yaml...

Always: apiVersion, kind, name; no key twice; names and label values as Kubernetes wants them; one
object of each name; selectors that fit their pods; resources, probes and a security context for each
container of our own; volumes that exist. With a folder of JSON schemas (GROUP/KIND_VERSION.json) also
every field. Prints one line of counts; a problem a line, exit status 1.
"""

import argparse
import json
import re
import sys
import warnings
from pathlib import Path

import yaml

NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")
LABEL = re.compile(r"([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$")
PODS = {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}


class Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML readers otherwise settle silently."""


def mapping(loader, node, deep=False):
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.YAMLError(f"the key {key.value} stands twice, line {key.start_mark.line + 1}")
        seen.add(key.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
# CRDs hold the bare scalar `=`.
Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def template(obj):
    """The pod template of an object that makes pods."""
    spec = obj["spec"]
    return (spec["jobTemplate"]["spec"] if obj["kind"] == "CronJob" else spec)["template"]


def containers(obj):
    """What each container of our own lacks."""
    pod = template(obj)["spec"]
    volumes = {v["name"] for v in pod.get("volumes", [])}
    volumes |= {v["metadata"]["name"] for v in obj["spec"].get("volumeClaimTemplates", [])}
    runs_on = obj["kind"] in {"Deployment", "StatefulSet", "DaemonSet"}
    for c in pod.get("initContainers", []) + pod["containers"]:
        for mount in c.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"container {c['name']} mounts {mount['name']}, which is no volume"
        ports = [p["name"] for p in c.get("ports", []) if "name" in p]
        if len(ports) != len(set(ports)):
            yield f"container {c['name']} names a port twice"
        if any(len(port) > 15 for port in ports):
            yield f"container {c['name']} has a port with a name longer than 15 characters"
    for c in pod["containers"]:
        resources = c.get("resources") or {}
        if "memory" not in (resources.get("limits") or {}) or len(resources.get("requests") or {}) < 2:
            yield f"container {c['name']} has no requests or no limit of memory"
        if runs_on and not ("readinessProbe" in c and "livenessProbe" in c):
            yield f"container {c['name']} has no probes"
        if (c.get("securityContext") or {}).get("allowPrivilegeEscalation") is not False:
            yield f"container {c['name']} may raise its privileges"
        added = ((c.get("securityContext") or {}).get("capabilities") or {}).get("add") or []
        if "SETUID" in added and "KILL" not in added:
            yield f"container {c['name']} may start programs as another user and not end them (KILL)"
        if re.search(r"(:latest|[^:]*[^0-9a-z.-])$", c["image"].rsplit("/", 1)[-1]) or ":" not in c["image"].rsplit("/", 1)[-1]:
            yield f"container {c['name']}: the image {c['image']} has no version"


def checks(obj, ours):
    """What is wrong with one object, whatever the schema says."""
    # Names of roles may hold more than those of other things.
    if not (NAME.match(obj["metadata"].get("name", "")) or obj["apiVersion"].startswith("rbac.")):
        yield "its name is none"
    for key, value in (obj["metadata"].get("labels") or {}).items():
        if not isinstance(value, str) or not LABEL.match(value):
            yield f"the label {key} cannot be {value!r}"
    if obj["kind"] in PODS:
        labels = template(obj)["metadata"].get("labels") or {}
        for key, value in ((obj["spec"].get("selector") or {}).get("matchLabels") or {}).items():
            if labels.get(key) != value:
                yield f"its selector wants {key}={value}, its pods have {labels.get(key)}"
        if ours:
            yield from containers(obj)


def selected(objects):
    """Services and budgets that select no pod of the same files."""
    pods = [(o["metadata"].get("namespace"), template(o)["metadata"].get("labels") or {}) for o in objects if o["kind"] in PODS]
    for o in objects:
        wanted = (o.get("spec") or {}).get("selector") if o["kind"] in {"Service", "PodDisruptionBudget"} else None
        wanted = (wanted or {}).get("matchLabels", wanted)
        space = o["metadata"].get("namespace")
        # A namespace without pods here has those of another release.
        here = any(space == n for n, _ in pods)
        if wanted and here and not any(space == n and wanted.items() <= labels.items() for n, labels in pods):
            yield o, f"it selects {wanted}, which no pod has"


class Schemas:
    """JSON schemas by group, kind and version."""

    def __init__(self, folder):
        self.folder = folder
        self.known = {}

    def path(self, obj):
        group, _, version = obj["apiVersion"].rpartition("/")
        name = f"{obj['kind'].lower()}_{version}.json"
        for place in ("pinned", "kubernetes"):
            for name_of_group in (group or "core", group + ".k8s.io"):
                path = self.folder / place / name_of_group / name
                if path.exists():
                    return path
        return None

    def problems(self, obj):
        import jsonschema

        path = self.path(obj)
        if path is None:
            return None
        if path not in self.known:
            schema = json.loads(path.read_text())
            with warnings.catch_warnings(action="ignore"):
                # Its successor is not in Debian 12.
                resolver = jsonschema.RefResolver(path.as_uri(), schema)
            self.known[path] = jsonschema.Draft7Validator(schema, resolver=resolver)
        return [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in self.known[path].iter_errors(obj)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--schemas", type=Path, help="a folder of JSON schemas")
    parser.add_argument("--theirs", action="store_true", help="charts of others: without the rules for our own")
    parser.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args()
    schemas = Schemas(args.schemas.resolve()) if args.schemas else None
    found, objects, seen, unknown, by_schema = [], [], {}, set(), 0
    for file in args.files:
        for obj in filter(None, yaml.load_all(file.read_text(), Loader)):
            where = f"{file.name}: {obj.get('kind')} {obj.get('metadata', {}).get('name')}"
            if not all(obj.get(key) for key in ("apiVersion", "kind", "metadata")):
                found.append(f"{where}: no object: apiVersion, kind or metadata is missing")
                continue
            objects.append(obj)
            key = (obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace"), obj["metadata"].get("name"))
            if key in seen:
                found.append(f"{where}: stands in {seen[key]} too")
            seen[key] = file.name
            found += [f"{where}: {p}" for p in checks(obj, not args.theirs)]
            problems = schemas.problems(obj) if schemas else None
            if problems is None:
                unknown.add(f"{obj['apiVersion']} {obj['kind']}")
            else:
                by_schema += 1
                found += [f"{where}: {p}" for p in problems]
    if not args.theirs:
        found += [f"{o['kind']} {o['metadata']['name']}: {p}" for o, p in selected(objects)]
    for problem in found:
        print(problem)
    rest = f", no schema for {', '.join(sorted(unknown))}" if schemas and unknown else ""
    print(f"objects: {len(objects)} checked, {by_schema} of them against a schema{rest}; {len(found)} problems")
    sys.exit(1 if found or not objects else 0)


if __name__ == "__main__":
    main()
