"""Tries a ruleset with real packets (see firewall.rs): RULES TCP-PORTS SOURCE...

Started in a network namespace of its own, which plays the node; a second one plays everyone else.
Prints, by source address, the ports that answered; UDP ports with a `u` before them.
"""
import ctypes, json, os, select, socket, subprocess, sys, time

rules, ports, sources = sys.argv[1], [int(p) for p in sys.argv[2].split()], sys.argv[3:]
UDP, NODE, WAIT = [7946, 8472, 9999], "192.168.2.2", 0.5


def run(*command):
    subprocess.run(command, check=True)


def setup(peer):
    run("ip", "link", "add", "n0", "type", "veth", "peer", "name", "p0", "netns", str(peer))
    for command in (["link", "set", "lo", "up"], ["link", "set", "n0", "up"],
                    ["addr", "add", NODE + "/24", "dev", "n0"],
                    ["route", "add", "default", "dev", "n0"]):
        run("ip", *command)


def knock(kind, source, port):
    s = socket.socket(socket.AF_INET, kind)
    s.setblocking(False)
    s.bind((source, 0))
    s.connect_ex((NODE, port))
    if kind == socket.SOCK_DGRAM:
        s.send(b"?")
    return s


def answered(s):
    if s.type & socket.SOCK_DGRAM:
        return select.select([s], [], [], 0)[0] != []
    return select.select([], [s], [], 0)[1] != [] and s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def ask(source):
    doors = [(str(p), knock(socket.SOCK_STREAM, source, p)) for p in ports]
    doors += [("u%d" % p, knock(socket.SOCK_DGRAM, source, p)) for p in UDP]
    time.sleep(WAIT)
    open_ = [name for name, s in doors if answered(s)]
    for _, s in doors:
        s.close()
    return " ".join(open_)


def serve():
    tcp = [socket.create_server((NODE, p), backlog=64) for p in ports]
    udp = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in UDP]
    for s, p in zip(udp, UDP):
        s.bind((NODE, p))
    while True:
        for s in select.select(tcp + udp, [], [])[0]:
            if s in tcp:
                s.accept()[0].close()
            else:
                s.sendto(b"!", s.recvfrom(9)[1])


def peer_main(orders, answers):
    # Python has os.unshare only from 3.12 on; 0x40000000 is CLONE_NEWNET.
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "unshare")
    os.write(answers, b"ready\n")
    os.read(orders, 1)
    for command in (["link", "set", "lo", "up"], ["link", "set", "p0", "up"],
                    *[["addr", "add", a + "/32", "dev", "p0"] for a in sources],
                    ["route", "add", NODE, "dev", "p0"]):
        run("ip", *command)
    while order := os.read(orders, 64):
        found = [ask(a) for a in sources] if order == b"all" else ask(sources[-1])
        os.write(answers, (json.dumps(found) + "\n").encode())


def main():
    (orders_r, orders_w), (answers_r, answers_w) = os.pipe(), os.pipe()
    peer = os.fork()
    if peer == 0:
        os.close(orders_w)
        peer_main(orders_r, answers_w)
        os._exit(0)
    os.close(orders_r)
    answers = os.fdopen(answers_r)
    answers.readline()
    setup(peer)
    server = os.fork()
    if server == 0:
        os.close(orders_w)
        serve()
    os.write(orders_w, b".")
    time.sleep(0.5)
    order = lambda what: (os.write(orders_w, what), json.loads(answers.readline()))[1]
    result = {"without": order(b"one")}
    run("nft", "add", "table", "ip", "foreign")
    run("nft", "--file", rules)
    run("nft", "--file", rules)
    tables = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    result["kept"] = "yes" if "table ip foreign" in tables and "table inet node" in tables else "no"
    result |= dict(zip(sources, order(b"all")))
    os.close(orders_w)
    for child in (server, peer):
        os.kill(child, 9)
        os.waitpid(child, 0)
    print(json.dumps(result))


main()
