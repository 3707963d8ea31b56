#!/usr/bin/env python3
"""Renders every chart of our own by the real helm, with its own values and with those of each release
that uses it, and checks the objects (schemas.py). What a schema must refuse is refused.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CHARTS = ROOT / "cluster/charts"
SCHEMAS = ROOT.parent / "shared/pins/schemas"
# Values that must not pass, with a word of the message.
REFUSED = [
    ("postgres", "image=postgres:latest", "image"),
    ("postgres", "backup.keep=0", "keep"),
    ("postgres", "databases[0].name=Bad-Name,databases[0].secretKey=a", "databases"),
    ("postgres", "storage.sise=1Gi", "sise"),
    ("dev-proxy", "http[0].path=/a b,http[0].target=x:1", "path"),
    ("dev-proxy", "http[0].path=/a,http[0].target=x:1;}", "target"),
    ("dev-proxy", "tcp[0].port=3333,tcp[0].target=x:1", "3333"),
    ("dev-containers", "containers[0].name=Dev", "name"),
    ("dev-containers", "image=dev-container", "image"),
    ("paperless", "languages=de", "languages"),
    ("paperless", "storage.media=lots", "media"),
    ("vllm", "gpus=0", "gpus"),
    ("home-monitoring", "runbooks=http://plain", "runbooks"),
]


def helm(*words):
    done = subprocess.run(["helm", *map(str, words)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def uses(chart):
    """Releases of a chart, with values that need no rendering."""
    for file in sorted((ROOT / "cluster").glob("*/*/release.toml")):
        if f'chart = "{chart}"' in file.read_text():
            values = file.parent / "values-homelab.yaml"
            yield file.parent, ["--values", values] if values.exists() else []


def render(chart, folder):
    yield chart.name, "default", []
    for place, values in uses(chart.name):
        yield place.name, place.parent.name, values


def main():
    found, files = [], []
    charts = sorted(c for c in CHARTS.iterdir() if (c / "Chart.yaml").exists())
    with tempfile.TemporaryDirectory() as folder:
        for chart in charts:
            code, out, err = helm("lint", "--strict", chart)
            found += [] if code == 0 else [f"{chart.name}: {out}{err}"]
            if not (chart / "values.schema.json").exists():
                found.append(f"{chart.name}: it has no values.schema.json")
            for name, space, values in render(chart, folder):
                code, out, err = helm("template", name, chart, "--namespace", space, *values,
                                      "--api-versions", "monitoring.coreos.com/v1", "--kube-version", "1.36.4")
                if code:
                    found.append(f"{chart.name} as {space}/{name}: {err}")
                    continue
                file = Path(folder) / f"{chart.name}-{space}-{name}.yaml"
                file.write_text(out)
                if any(filter(None, yaml.safe_load_all(out))):
                    files.append(file)
        schemas = ["--schemas", SCHEMAS] if SCHEMAS.is_dir() else []
        for file in files:
            done = subprocess.run([sys.executable, HERE / "schemas.py", *schemas, file], capture_output=True, text=True)
            print(f"{file.stem}: {done.stdout.splitlines()[-1] if done.stdout else done.stderr}")
            found += done.stdout.splitlines()[:-1] if done.returncode else []
            found += [done.stderr] if done.returncode and not done.stdout else []
    for chart, values, word in REFUSED:
        code, _, err = helm("template", CHARTS / chart, "--set", values)
        if code == 0 or word not in err:
            found.append(f"{chart}: takes {values}: {err}")
    print(*found, sep="\n", end="\n" if found else "")
    by = "and against schemas" if SCHEMAS.is_dir() else "(no folder of schemas beside the project)"
    print(f"charts: {len(charts)} linted, {len(files)} renderings checked {by}, {len(REFUSED)} bad values refused; {len(found)} problems")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    main()
