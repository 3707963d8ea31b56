#!/bin/sh
# The dev proxy with a real nginx: the chart's fixed part and script, routes as the kubelet mounts a
# ConfigMap. A route appears and goes within 30 s, a bad one changes nothing, an open connection
# outlives a reload, TCP reaches its target. In a network of its own. Needs nginx with streams,
# python3, helm in PATH.
set -eu
if [ "${1:-}" != inside ]; then
  # nginx as root gives its folders to another user, so one must exist in there.
  others=""
  [ "$(id -u)" -eq 0 ] || others="--user --map-root-user --map-auto"
  exec unshare $others --net --mount sh "$0" inside
fi
chart=$(cd "$(dirname "$0")/../../cluster/charts/dev-proxy" && pwd)
work=$(mktemp -d)
chmod 755 "$work"
ip link set lo up
checks=0
ok() { checks=$((checks + 1)); }
fail() { echo "dev proxy: $*" >&2; cat "$work/log" >&2; exit 1; }
pids=
trap 'for pid in $pids; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$work"' EXIT

# Two servers of developers, and one that speaks TCP: it says its name and then repeats what it hears.
cat >"$work/servers.py" <<'PY'
import http.server, socketserver, threading
class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.server.server_address[1]} {self.path} {self.headers['Host']} {self.headers['X-Forwarded-Proto']}\n".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"SSH-2.0-test\n")
        for line in self.rfile: self.wfile.write(line)
for port in (3000, 3001):
    threading.Thread(target=http.server.ThreadingHTTPServer(("127.0.0.1", port), Web).serve_forever).start()
socketserver.ThreadingTCPServer(("127.0.0.1", 3022), Tcp).serve_forever()
PY
python3 "$work/servers.py" & pids="$pids $!"
cat >"$work/ask.py" <<'PY'
import sys, urllib.request, urllib.error
try: print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Host": "dev.home.test"}), timeout=3).read().decode(), end="")
except urllib.error.HTTPError as e: print(e.code)
except OSError as e: print("none")
PY
ask() { python3 "$work/ask.py" "http://127.0.0.1:$1"; }

# A new version of the ConfigMap, as the kubelet gives it: a folder, and a link that moves in one step.
version=0
routes() {
  version=$((version + 1))
  mkdir -p "$work/routes/..$version"
  helm template dev-proxy "$chart" --show-only templates/config.yaml "$@" >"$work/config.yaml"
  /usr/bin/python3 - "$work/config.yaml" "$work/routes/..$version" "$work/files" <<'PY'
import pathlib, sys, yaml
for doc in yaml.safe_load_all(open(sys.argv[1])):
    folder = pathlib.Path(sys.argv[2] if doc["metadata"]["name"].endswith("-routes") else sys.argv[3])
    folder.mkdir(exist_ok=True)
    for name, text in doc["data"].items(): (folder / name).write_text(text)
PY
  publish
}
publish() {
  ln -sfn "..$version" "$work/routes/..new" && mv -T "$work/routes/..new" "$work/routes/..data"
  for name in http.conf stream.conf; do ln -sfn "..data/$name" "$work/routes/$name"; done
}
# Waits until the answer is as wanted; prints after how many seconds.
until_is() {
  begun=$(date +%s)
  while [ "$(ask "$1")" != "$2" ]; do
    [ $(($(date +%s) - begun)) -lt 30 ] || fail "$1 gives '$(ask "$1")' after 30 s, not '$2'"
    sleep 0.3
  done
  ok
  echo "  $1: '$2' after $(($(date +%s) - begun)) s"
}

routes --set 'http[0].path=/app1,http[0].target=127.0.0.1:3000'
mkdir "$work/run"
FILES="$work/files" ROUTES="$work/routes" RUN="$work/run" sh "$work/files/serve.sh" >"$work/log" 2>&1 &
proxy=$!
pids="$pids $proxy"
until_is 8080/app1/x?y=1 "3000 /x?y=1 dev.home.test https"
until_is 8080/app2/ 404
until_is 8081/healthz ""
master=$(cat "$work/run/nginx.pid")

# A connection over TCP, kept open over all that follows.
routes --set 'http[0].path=/app1,http[0].target=127.0.0.1:3000,http[1].path=/app2,http[1].target=127.0.0.1:3001,tcp[0].port=2222,tcp[0].target=127.0.0.1:3022'
until_is 8080/app2/ "3001 / dev.home.test https"
until_is 8080/app1/ "3000 / dev.home.test https"
cat >"$work/talk.py" <<'PY'
import socket, sys, time
s = socket.create_connection(("127.0.0.1", 2222), 5); f = s.makefile("rwb")
assert f.readline() == b"SSH-2.0-test\n"
print("open", flush=True)
for line in sys.stdin:
    f.write(line.encode()); f.flush(); print(f.readline().decode().strip(), flush=True)
PY
mkfifo "$work/in"
python3 "$work/talk.py" <"$work/in" >"$work/out" &
pids="$pids $!"
exec 3>"$work/in"
echo one >&3
for _ in 1 2 3 4 5 6 7 8 9 10; do grep -q one "$work/out" && break; sleep 0.5; done
grep -q one "$work/out" || fail "no answer over TCP"
ok

# One is removed, with its port.
routes --set 'http[0].path=/app1,http[0].target=127.0.0.1:3000'
until_is 8080/app2/ 404
until_is 8080/app1/ "3000 / dev.home.test https"
until_is 2222/ none
echo two >&3
for _ in 1 2 3 4 5 6 7 8 9 10; do grep -q two "$work/out" && break; sleep 0.5; done
grep -q two "$work/out" || fail "a reload cut an open connection"
ok

# A mistake by hand: the old routes stay, and the next good ones are taken.
version=$((version + 1))
mkdir "$work/routes/..$version"
echo 'location /app1/ { proxy_pas http://127.0.0.1:3001; }' >"$work/routes/..$version/http.conf"
: >"$work/routes/..$version/stream.conf"
publish
for _ in 1 2 3 4 5 6 7 8 9 10; do grep -q 'the old ones stay' "$work/log" && break; sleep 1; done
grep -q 'the old ones stay' "$work/log" || fail "nobody said that the routes are bad"
ok
until_is 8080/app1/ "3000 / dev.home.test https"
# A target whose name nobody knows harms nobody else.
routes --set 'http[0].path=/app1,http[0].target=127.0.0.1:3001,http[1].path=/gone,http[1].target=gone.invalid:80'
until_is 8080/app1/ "3001 / dev.home.test https"
[ "$(cat "$work/run/nginx.pid")" = "$master" ] || fail "nginx was restarted"
ok
exec 3>&-
kill -TERM "$proxy"
wait "$proxy" || fail "it did not end well: $?"
ok
echo "dev proxy: $checks checks passed"
