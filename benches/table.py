#!/usr/bin/env python3
"""Measures every case of the speed table and writes benches/results.md; run.sh prepares and calls it."""

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PAYLOAD = 350_000_000  # bytes of K3s and container images together
UNIT = "images/base/usr/lib/systemd/system/firstboot-host.service"

args = argparse.ArgumentParser()
for name in ("work", "builder", "firstboot", "k3s"):
    args.add_argument(name, type=Path)
args.add_argument("--runs", type=int, default=5)
args.add_argument("--boots", type=int, default=5)
args.add_argument("--no-mkosi", action="store_true")
args = args.parse_args()
project, out = args.work / "project", args.work / "out"
peak_kib = 0


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def timed(command, **env):
    """Seconds a program took; notes builder's own peak of memory on the way."""
    global peak_kib
    log = open(args.work / "log", "wb")
    start = time.monotonic()
    child = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
    with open(os.pidfd_open(child.pid), closefd=True) as end:
        waiter = select.poll()
        waiter.register(end, select.POLLIN)
        while not waiter.poll(20):
            if Path(command[0]) == args.builder:
                status = Path(f"/proc/{child.pid}/status").read_text()
                lines = [x.split()[1] for x in status.splitlines() if x.startswith("VmHWM")]
                peak_kib = max([peak_kib, *map(int, lines)])
    seconds = time.monotonic() - start
    if child.wait() != 0:
        sys.exit(f"bench: {command} failed:\n{(args.work / 'log').read_text()[-3000:]}")
    return seconds


def builder(*more, **env):
    return timed([args.builder, "--root", project, *more], **env)


def image(lock, *more, **env):
    return builder("image", "--profile", "worker", "--lock", lock, "--out", out,
                   "--artifact", f"firstboot={args.firstboot}", *more, **env)


def payload(n):
    """K3s with other bytes at its end, and random bytes as container images: a lock for them."""
    k3s, images, lock = (args.work / f"{name}-{n}" for name in ("k3s", "images.tar", "lock"))
    k3s.write_bytes(args.k3s.read_bytes() + os.urandom(16))
    k3s.chmod(0o755)
    images.write_bytes(os.urandom(max(PAYLOAD - k3s.stat().st_size, 1 << 20)))
    lock.unlink(missing_ok=True)
    helm = args.work / "helm"  # of no weight here: a few bytes in its place
    helm.write_text("#!/bin/sh\necho v4.0.0\n")
    helm.chmod(0o755)
    given = {"k3s": k3s, "k3s-airgap-images": images, "helm": helm}
    builder("--quiet", "lock", "--output", lock, *[x for k, v in given.items() for x in ("--standin", f"{k}={v}")])
    return lock, given


def measure_builder():
    """Medians need each case to start from the same place: a finished build of the lock before."""
    cases = {name: [] for name in ("nothing", "unit", "payload", "base", "download", "cold")}
    lock, given = payload(0)
    image(lock)
    for n in range(1, args.runs + 1):
        cases["nothing"].append(image(lock))
        with open(project / UNIT, "a") as unit:
            unit.write(f"# bench {n}\n")
        cases["unit"].append(image(lock))
        lock, given = payload(n)
        cases["payload"].append(image(lock))
        for stage in ("base", "pool"):
            shutil.rmtree(args.work / "cache/stages" / stage)
        shutil.rmtree(out)
        cases["base"].append(image(lock))
        say(f"builder, run {n}: " + ", ".join(f"{k} {v[-1]:.2f}" for k, v in cases.items() if v))
    cold = {"BUILDER_CACHE": str(args.work / "cold")}
    shutil.rmtree(out)
    cases["download"].append(builder("fetch", "--packages", "--lock", lock, **cold))
    files = [x for k, v in given.items() for x in ("--artifact", f"{k}={v}")]
    cases["cold"].append(cases["download"][0] + image(lock, *files, **cold))
    shutil.rmtree(args.work / "cold")
    return cases


def measure_mkosi():
    dir, cases = args.work / "mkosi", {"cold": [], "cached": [], "incremental": []}
    toml = tomllib.loads((project / "images/debian-13.toml").read_text())
    names = [*toml["packages"], toml["kernel"], "apt", "grub-pc-bin", "grub-efi-amd64-bin", "grub-common"]
    conf = "[Content]\nPackages=\n" + "".join(f"        {name}\n" for name in sorted(set(names)))
    (dir / "project/mkosi.conf.d/packages.conf").write_text(conf)
    extra = dir / "project/mkosi.extra/var/lib/payload"
    extra.mkdir(parents=True, exist_ok=True)
    for name in ("mkosi.cache", "mkosi.pkgcache"):
        (dir / "project" / name).mkdir(exist_ok=True)

    def run(force):
        (extra / "payload").write_bytes(os.urandom(PAYLOAD))
        return timed([TOP / "benches/mkosi.sh", "build", dir, force, "build"])

    cases["cold"].append(run("-fff"))
    cases["cached"].append(run("-ff"))
    for n in range(1, args.runs + 1):
        cases["incremental"].append(run("-f"))
        say(f"mkosi, run {n}: " + ", ".join(f"{k} {v[-1]:.1f}" for k, v in cases.items()))
    timed([TOP / "benches/mkosi.sh", "build", dir, "--version"])
    return cases, (args.work / "log").read_text().strip()


def measure_boots():
    """Power-on to login (console and SSH) and to maintenance mode, and firstboot's own part of it, in
    seconds. The network of the boot test has no time server, so firstboot waits 3 s for one: that
    is not its own. The kernel's clock starts before its first line on the console, so login is
    counted a little late rather than early."""
    login, total, own = [], [], []
    file = next(out.glob("*.qcow2"))
    for _ in range(args.boots):
        builder("--json", "boot", file, "--expect", "waiting", "--cpus", "2")
        text = (args.work / "log").read_text()
        verdict = json.loads(text[text.index("{\n"):text.rindex("}") + 1])
        at = {p["phase"]: p["seconds"] for p in verdict["phases"]}
        login.append(at["kernel"] + verdict["figures"]["login_micros"] / 1e6)
        total.append(at["waiting"])
        own.append(sum(s["millis"] for s in verdict["report"]["steps"] if s["name"] != "clock") / 1000)
        say(f"boot: login after {login[-1]:.1f} s, waiting after {total[-1]:.1f} s, firstboot {own[-1]:.2f} s, {verdict['accel']}")
    return login, total, own


def cell(values):
    if not values:
        return "not measured"
    spread = f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f} s{spread}"


def row(name, ours, limit, theirs=None, share=None):
    """One line of the table; `limit` in seconds, `share` the limit of the ratio."""
    line = f"| {name} | {cell(ours)} | {limit:.1f} s |"
    if not ours:
        return f"{line} | | | |"
    good = statistics.median(ours) <= limit
    if share is None:
        return f"{line} | | | {'yes' if good else '**no**'} |"
    if not theirs:
        return f"{line} not measured | | {share} | {'yes' if good else '**no**'} |"
    ratio = statistics.median(ours) / statistics.median(theirs)
    good = good and ratio <= share
    return f"{line} {cell(theirs)} | {ratio:.3f} | {share} | {'yes' if good else '**no**'} |"


def main():
    load = os.getloadavg()[0]
    ours = measure_builder()
    theirs, version = measure_mkosi() if not args.no_mkosi else ({}, "not measured")
    login, boots, own = measure_boots() if args.boots else ([], [], [])
    manifest = json.loads(next(out.glob("*.manifest.json")).read_text())
    root, git = manifest["root"], lambda *a: subprocess.run(["git", *a], cwd=TOP, capture_output=True, text=True).stdout.strip()
    inc = theirs.get("incremental")
    cpu = next((x.split(":")[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), "unknown")
    yes = lambda good: "yes" if good else "**no**"
    lines = [
        "# Speed", "",
        "Written by benches/run.sh; how it is measured: [README.md](README.md). Median (smallest–largest).", "",
        f"- date: {time.strftime('%Y-%m-%dT%H:%MZ', time.gmtime())}, commit {git('rev-parse', '--short=12', 'HEAD')}"
        + (" with uncommitted changes" if git("status", "--porcelain", "builder", "firstboot", "images") else ""),
        f"- machine: {os.cpu_count()} processors ({cpu}); load at the start {load:.1f}, at the end {os.getloadavg()[0]:.1f}",
        f"- runs: {args.runs}; of everything cold and of mkosi's first two cases one; boots: {args.boots}",
        f"- K3s: the stand-in; {version if version.startswith('mkosi') else 'mkosi: ' + version}", "",
        "| case | builder | at most | mkosi | ratio | at most | holds |", "|---|---|---|---|---|---|---|",
        row("nothing changed", ours["nothing"], 0.3),
        row("a unit changed", ours["unit"], 4, inc, 0.15),
        row("K3s and images changed (350 MB)", ours["payload"], 5, inc, 0.2),
        row("base rebuilt, packages cached", ours["base"], 45, theirs.get("cached"), 0.45),
        row(f"everything cold (downloads {ours['download'][0]:.1f} s of it)", ours["cold"], ours["download"][0] + 75, theirs.get("cold"), 0.7),
        row("power-on to login, 2 processors", login, 45),
        f"| power-on to maintenance mode (no limit of its own) | {cell(boots)} | | | | | |",
        row("firstboot's own part of it, without its wait for a time server", own, 1), "",
        "| what | found | at most | holds |", "|---|---|---|---|",
        f"| peak memory of `builder` | {peak_kib / 1024:.0f} MiB | 100 MB | {yes(peak_kib * 1024 <= 100e6)} |",
        f"| root file system before K3s | {root['base_bytes'] / 2**20:.0f} MiB | 340 MiB | {yes(root['base_bytes'] <= 340 << 20)} |",
        f"| packages | {root['packages']} | 250 | {yes(root['packages'] <= 250)} |", "",
    ]
    (TOP / "benches/results.md").write_text("\n".join(lines))
    print("\n".join(lines))


main()
