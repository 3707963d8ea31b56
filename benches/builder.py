#!/usr/bin/env python3
"""The operator's commands that people wait for; writes benches/builder.md.

    builder.py [--runs N] [BUILDER]     (default: target/release/builder; `just image` before it, for its lock)

Real times of whole processes, in this repository: `check` of everything, `bundle render` of what target/image.lock can
render. What needs a Proxmox is measured by builder/tests/proxmox, and the engine by builder/tests/life, whose lines
`bench: NAME: VALUE` are taken over.
"""
import argparse, datetime, os, pathlib, re, statistics, subprocess, sys, tempfile, time

TOP = pathlib.Path(__file__).resolve().parent.parent
LOCK = TOP / "target/image.lock"
# Lines of the tests, and the limit that stands beside each; the tests fail above it.
DOUBLE = {
    "status of 100 nodes": "1 s",
    "upload of an image beside curl": "at least 80 % of curl's speed",
    "peak memory of an upload": "64 MiB",
    "rollout, own time per node": "2 s",
    "rollout of 1,000 nodes, peak memory": "128 MiB",
}


def run(command):
    """Seconds and peak MiB of a process; ends the bench if it fails."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, cwd=TOP)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            log.seek(0)
            sys.exit(f"bench: {command} failed:\n{log.read().decode()[-3000:]}")
    return time.monotonic() - start, used.ru_maxrss / 1024


def series(runs, command):
    run(command)  # files into memory
    times, peaks = zip(*(run(command) for _ in range(runs)))
    return statistics.median(times), max(peaks)


def double():
    """What builder's tests measure against the double of Proxmox, by name."""
    command = ["cargo", "test", "--release", "--package", "builder", "--test", "proxmox", "--test", "life", "--",
               "--ignored", "--nocapture", "--test-threads=1", "bench_"]
    said = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    if said.returncode != 0:
        sys.exit(f"bench: {' '.join(command)} failed:\n{(said.stdout + said.stderr)[-3000:]}")
    # Behind "test NAME ... " when it is the first line that the test prints.
    return dict(re.findall(r"bench: ([^:]+): (.*)$", said.stdout, re.MULTILINE))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("program", nargs="?", default=TOP / "target/release/builder")
    options = options.parse_args()
    load = os.getloadavg()[0]
    check, check_peak = series(options.runs, [options.program, "--quiet", "check"])
    with tempfile.TemporaryDirectory() as out:
        render, render_peak = series(options.runs, [
            options.program, "--quiet", "bundle", "render", "--lock", LOCK, "--out", out])
        parts = sum(1 for path in pathlib.Path(out).rglob("*") if path.is_file())
    found = double()
    if missing := DOUBLE.keys() - found.keys():
        sys.exit(f"bench: the tests did not tell: {', '.join(sorted(missing))}")
    table = [
        ("`builder check`, everything", f"{check:.2f} s", "1 s"),
        ("its peak memory", f"{check_peak:.0f} MiB", "150 MB"),
        (f"`builder bundle render`, {parts} parts", f"{render:.2f} s", "5 s"),
        ("its peak memory", f"{render_peak:.0f} MiB", ""),
        *((name, found[name], limit) for name, limit in DOUBLE.items()),
    ]
    text = ["# The operator's commands", "",
            f"By `benches/builder.py`, {datetime.date.today()}, {os.cpu_count()} processors, load {load:.1f} by others; "
            f"medians of {options.runs} runs, files in memory. How: see the head of the script.", "",
            "| what | measured | limit |", "|---|---|---|"]
    text += [f"| {what} | {got} | {limit} |" for what, got, limit in table]
    (TOP / "benches/builder.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


main()
