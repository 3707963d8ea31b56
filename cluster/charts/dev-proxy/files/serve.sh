#!/bin/sh
# Runs nginx and looks every 2 seconds whether the routes have changed. New ones are used only when
# nginx accepts them; otherwise the old ones stay and the log says why.
# FILES: nginx.conf. ROUTES: http.conf and stream.conf, as the kubelet mounts the ConfigMap. RUN: a
# folder to write in.
set -eu
cd "$RUN"
mkdir -p routes
: >routes/http.conf
: >routes/stream.conf
servers=$(sed -n 's/^nameserver *//p' /etc/resolv.conf | sed 's/.*:.*/[&]/' | tr '\n' ' ')
echo "resolver ${servers:-127.0.0.1} valid=10s ipv6=off;" >resolver.conf
# Debian builds the streams as a module.
module=/usr/lib/nginx/modules/ngx_stream_module.so
{ [ ! -e "$module" ] || echo "load_module $module;"; cat "$FILES/nginx.conf"; } >nginx.conf

sum() { cat "$ROUTES/http.conf" "$ROUTES/stream.conf" 2>/dev/null | sha256sum; }
# Takes the routes of the ConfigMap; false if nginx refuses them.
take() {
  rm -rf old && cp -r routes old
  cp "$ROUTES/http.conf" "$ROUTES/stream.conf" routes/
  nginx -p "$RUN" -c "$RUN/nginx.conf" -e stderr -t -q || { echo "the new routes are refused, the old ones stay" >&2; rm -rf routes; mv old routes; return 1; }
}

seen=$(sum)
take || true
nginx -p "$RUN" -c "$RUN/nginx.conf" -e stderr -g 'daemon off;' &
nginx=$!
trap 'kill -QUIT "$nginx"' TERM INT
while kill -0 "$nginx" 2>/dev/null; do
  sleep 2 &
  # A signal ends `wait`, not `sleep`.
  wait $! || true
  now=$(sum)
  if [ "$now" != "$seen" ]; then
    seen=$now
    if take; then
      kill -HUP "$nginx"
      echo "routes taken" >&2
    fi
  fi
done
wait "$nginx"
