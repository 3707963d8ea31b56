#!/usr/bin/env python3
"""firstboot's own work, on a root prefix with stub programs; writes benches/firstboot.md.

    firstboot.py [--runs N] [FIRSTBOOT]     (default: the static program of `just firstboot`)

Times are processor time of firstboot and what it starts, so that neighbours do not count; the stubs
are shell scripts of a line and are in them. Nothing here waits: the clock is set, the address is there.
"""
import argparse, datetime, hashlib, hmac, http.server, json, os, pathlib, resource, shutil, statistics, subprocess
import tempfile, threading, time

TOP = pathlib.Path(__file__).resolve().parent.parent
DEFAULT = TOP / "target/x86_64-unknown-linux-gnu/release/firstboot"
KEY, TOKEN, CLUSTER = "5e" * 32, "a-token", "home-1"
SHELF = f"srv/nfs/data/k3s-snapshots/{CLUSTER}/k3s-master"
IMAGE, VERSION = "master-0123456789ab", "v1.36.4+k3s1"
# Notes firstboot's own peak so far; its last call is the step `start`, the end of the host stage.
SYSTEMCTL = """#!/bin/sh
grep VmHWM /proc/$PPID/status >"$ROOT/peak"
case "$*" in is-active*) exit 3 ;; esac
"""
RESET = """#!/bin/sh
s=$ROOT/var/lib/rancher/k3s/server
mkdir -p $s/db/etcd/member/snap $s/tls; : >$s/db/etcd/member/snap/db; printf ca >$s/tls/server-ca.crt
echo 'Managed etcd cluster membership has been reset' >&2
"""


def node(root, nfs):
    """A booted master, with its NFS mounted if `nfs`."""
    def put(path, text):
        path = root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    cluster = {"name": "home", "domain": "home.example.net", "api": "127.0.0.1", "network": "127.0.0.0/8",
               "gateway": "127.0.0.254", "nodes": [{"name": "k3s-master", "address": "127.0.0.1", "role": "server"}]}
    if nfs:
        cluster["nfs"] = [{"name": "data", "server": "192.0.2.9", "export": "/vol"}]
    put("usr/lib/firstboot/node.json", json.dumps({
        "schema": 1, "image_id": IMAGE, "built_at": 1789200000, "role": "server", "k3s_version": VERSION,
        "labels": {}, "taints": [], "cluster": cluster}))
    put("usr/lib/firstboot/k3s/config.yaml", "protect-kernel-defaults: true\n")
    put("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    put("proc/sys/kernel/hostname", "k3s-master\n")
    put("proc/net/route", "head\neth0 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0\n")
    put("proc/self/mountinfo", "90 21 0:50 / /srv/nfs/data rw - nfs4 192.0.2.9:/vol rw\n")
    for name, text in (("systemctl", SYSTEMCTL), ("k3s", RESET)):
        put(f"bin/{name}", text)
        (root / "bin" / name).chmod(0o755)
    boot(root, 1)


def boot(root, number):
    shutil.rmtree(root / "run", ignore_errors=True)
    for path, text in (("proc/sys/kernel/random/boot_id", f"boot-{number}"), ("proc/uptime", "9.0 9.0"),
                       ("run/systemd/timesync/synchronized", ""), ("dev/console", "")):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def give(root, bootstrap):
    body = json.dumps({"node": "k3s-master", "token": TOKEN, "cluster_id": CLUSTER, "snapshot_key": KEY,
                       "bootstrap": bootstrap}).encode()
    head = f"firstboot-join-1 {len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
    path = root / "run/firstboot/join/payload"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + body)


def host(program, root):
    """Runs the host stage: processor seconds, real seconds, its report."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([program, "--root", root, "host"], check=True, stderr=subprocess.DEVNULL,
                   env={"PATH": f"{root}/bin:/usr/bin:/bin", "ROOT": str(root)})
    real, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, real, json.loads((root / "run/firstboot/report.json").read_text())


def peak(root):
    return int((root / "peak").read_text().split()[1]) / 1024


def sign(key, data):
    return hmac.new(bytes.fromhex(key), data, hashlib.sha256).hexdigest()


def snapshots(root, count):
    """A shelf of this cluster; the newest is whole, the others have the right size."""
    shelf = root / SHELF
    shelf.mkdir(parents=True)
    bytes_ = b"\7" * 1024
    bytes_ += hashlib.sha256(bytes_).digest()
    for at in range(1, count + 1):
        file = f"firstboot-k3s-master-{at}"
        (shelf / file).write_bytes(bytes_)
        facts = {"schema": 1, "cluster_id": CLUSTER, "node": "k3s-master", "file": file, "taken": at,
                 "size": len(bytes_), "sha256": hashlib.sha256(bytes_).hexdigest(),
                 "ca_sha256": hashlib.sha256(b"ca").hexdigest(),
                 "token_mark": sign(KEY, b"token\0" + TOKEN.encode()), "k3s_version": VERSION, "image_id": IMAGE}
        signed = {"snapshot": facts, "hmac": sign(KEY, json.dumps(facts, separators=(",", ":")).encode())}
        (shelf / f"{file}.json").write_text(json.dumps(signed, indent=2) + "\n")


def cluster_with(digest):
    """An API server that has a Ready node and an applied bundle; it answers reads only."""
    info = dict.fromkeys(("machineID", "systemUUID", "kernelVersion", "osImage", "containerRuntimeVersion",
                          "kubeletVersion", "kubeProxyVersion", "operatingSystem", "architecture"), "")
    marks = {"name": "k3s-master", "labels": {"node.homelab/image-id": IMAGE.rsplit("-", 1)[1]},
             "annotations": {"node.homelab/image": IMAGE}}
    status = {"nodeInfo": info | {"bootID": "boot-1"}, "conditions": [{"type": "Ready", "status": "True"}]}
    objects = {
        "/api/v1/nodes/k3s-master": {"metadata": marks, "status": status},
        "/api/v1/namespaces/kube-system": {"metadata": {"name": "kube-system", "uid": "u"}},
        "/api/v1/namespaces/kube-system/configmaps/firstboot-bundle":
            {"metadata": {"name": "firstboot-bundle"}, "data": {"revision": "1", "digest": digest, "releases": "{}"}},
    }

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
            lease = {"metadata": {"name": "k3s-master"}, "spec": {"renewTime": now}}
            body = b"ok" if path == "/readyz" else json.dumps(objects.get(path, lease)).encode()
            self.send_response(200)
            self.send_header("Content-Length", len(body))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def unchanged_bundle(program, runs):
    """The whole cluster stage of a boot whose bundle, of 40 releases, is applied: real ms, peak MiB."""
    real, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        node(root, False)
        stub = "#!/bin/sh\nprintf 'ActiveState=active\\nSubState=running\\nResult=success\\n'\n"
        (root / "bin/systemctl").write_text(stub)
        file = {"path": "charts/x.tgz", "sha256": "0" * 64}
        release = {"namespace": "apps", "chart": {"name": "x", "version": "1", "file": file}, "values": None,
                   "manifests": [], "after": [], "stateful": False, "timeout_seconds": 600, "healthy": []}
        waves = [{"name": "all", "releases": [release | {"name": f"r{n}"} for n in range(40)]}]
        index = {"schema": 1, "revision": 1, "crds": [], "namespaces": [], "waves": waves}
        path = root / "usr/lib/firstboot/bundle/bundle.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(index))
        server = cluster_with(hashlib.sha256(path.read_bytes()).hexdigest())
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "d", "users": [{"name": "d", "user": {}}],
                  "clusters": [{"name": "d", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                  "contexts": [{"name": "d", "context": {"cluster": "d", "user": "d"}}]}
        path = root / "etc/rancher/k3s/k3s.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(config))
        for _ in range(runs):
            start = time.monotonic()
            child = subprocess.Popen([program, "--root", root, "cluster"], stderr=subprocess.DEVNULL,
                                     env={"PATH": f"{root}/bin:/usr/bin:/bin", "ROOT": str(root)})
            _, status, used = os.wait4(child.pid, 0)
            real.append((time.monotonic() - start) * 1000)
            peaks.append(used.ru_maxrss / 1024)
            report = json.loads((root / "run/firstboot/report.json").read_text())
            assert status == 0 and report["bundle"]["skipped"] == "unchanged", report
        server.shutdown()
    return real, peaks


def measure(program, runs):
    rows = {"first": [], "idle": [], "decide": [], "decide_real": [], "peak": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            node(root, False)
            give(root, "once")
            rows["first"].append(host(program, root)[0] * 1000)
            rows["peak"].append(peak(root))
            (root / "var/lib/rancher/k3s/server/db/etcd/member/snap").mkdir(parents=True)
            (root / "var/lib/rancher/k3s/server/db/etcd/member/snap/db").touch()
            (root / "var/lib/firstboot/may-initialise").unlink()
            for number in (2, 3):  # the second boot takes the permission out of K3s' configuration
                boot(root, number)
                used = host(program, root)[0] * 1000
            rows["idle"].append(used)
    for _ in range(max(3, runs // 4)):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            node(root, True)
            snapshots(root, 1000)
            give(root, "no")
            used, real, report = host(program, root)
            step = next(s for s in report["steps"] if s["name"] == "origin")
            assert "newest snapshot" in step["detail"], step
            rows["decide"].append(step["millis"])
            rows["decide_real"].append(real * 1000)
            rows["peak"].append(peak(root))
    return rows


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--runs", type=int, default=20)
    options.add_argument("program", nargs="?", default=DEFAULT)
    options = options.parse_args()
    rows = measure(options.program, options.runs)
    middle = {name: statistics.median(values) for name, values in rows.items()}
    cluster, cluster_peak = unchanged_bundle(options.program, options.runs)
    size = os.path.getsize(options.program) / 2**20
    load = os.getloadavg()[0]
    table = [
        ("first boot, host stage of a master", f"{middle['first']:.0f} ms of processor time", "300 ms"),
        ("a boot with nothing to do", f"{middle['idle']:.0f} ms of processor time", "50 ms"),
        ("peak memory, host stage", f"{max(rows['peak']):.1f} MiB", "24 MiB"),
        ("cluster stage, a bundle of 40 releases unchanged",
         f"{statistics.median(cluster):.0f} ms (real time)", "1 s"),
        ("peak memory, cluster stage", f"{max(cluster_peak):.1f} MiB", "48 MiB"),
        ("binary, static and stripped", f"{size:.1f} MiB", "12 MiB"),
        ("decision of a restore, 1,000 snapshots", f"{middle['decide']:.0f} ms, the whole stage {middle['decide_real']:.0f} ms (real time)", "1 s"),
    ]
    text = ["# firstboot's own work", "",
            f"By `benches/firstboot.py`, {datetime.date.today()}, {os.cpu_count()} processors, load {load:.1f} "
            f"by others; medians of {len(rows['first'])} and {len(rows['decide'])} runs. How: see the head of the script.",
            "The snapshots lie on this machine's disk in place of NFS.", "",
            "| what | measured | limit |", "|---|---|---|"]
    text += [f"| {what} | {got} | {limit} |" for what, got, limit in table]
    (TOP / "benches/firstboot.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
