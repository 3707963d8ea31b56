"""The life of a template and a VM by proxmoxer, a client written by others: URL, token and CA come from
the environment. Prints one JSON object with what it saw; any surprise is an exception."""

import hashlib
import json
import os
import sys
import tempfile

from proxmoxer import ProxmoxAPI, ResourceException
from proxmoxer.tools import Tasks

NODE = "pve1"


def connect():
    """A client that believes only the double's CA."""
    user, name, secret = os.environ["PVE_USER"], os.environ["PVE_TOKEN"], os.environ["PVE_SECRET"]
    return ProxmoxAPI("127.0.0.1", port=int(os.environ["PVE_PORT"]), user=user, token_name=name,
                      token_value=secret, verify_ssl=os.environ["PVE_CA"])


def done(api, upid):
    """Follows a task; it must end well."""
    status = Tasks.blocking_status(api, upid, timeout=60, polling_interval=0.01)
    if status is None or status["exitstatus"] != "OK":
        sys.exit(f"{upid}: {status}")


def refused(call, **params):
    """The status and the reason of a call that must fail."""
    try:
        call(**params)
    except ResourceException as error:
        return [error.status_code, error.content or error.status_message]
    return sys.exit(f"{call} was not refused")


def upload(api):
    """An image of 64 MiB, mostly holes that are not there."""
    image = b"QFI\xfb\0\0\0\x03" + bytes(16) + (64 << 20).to_bytes(8, "big") + bytes(4064)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "node.qcow2")
        with open(path, "wb") as file:
            file.write(image)
        with open(path, "rb") as file:
            fields = {"content": "import", "checksum-algorithm": "sha256",
                      "checksum": hashlib.sha256(image).hexdigest(), "filename": file}
            done(api, api.nodes(NODE).storage("local").upload.post(**fields))


def main():
    """All of it."""
    api = connect()
    node = api.nodes(NODE)
    seen = {"version": api.version.get()["release"], "next": api.cluster.nextid.get()}
    upload(api)
    seen["images"] = [row["volid"] for row in node.storage("local").content.get(content="import")]
    done(api, node.qemu.post(vmid=9000, name="tmpl", pool="k3s", memory=1024, agent="enabled=1",
                             scsihw="virtio-scsi-single", boot="order=scsi0", net0="virtio,bridge=vmbr0",
                             ide2="disks:cloudinit",
                             scsi0="disks:0,import-from=local:import/node.qcow2,format=qcow2"))
    done(api, node.qemu(9000).template.post())
    seen["twice"] = refused(node.qemu(9000).template.post)
    seen["no pool"] = refused(node.qemu(9000).clone.post, newid=101)
    seen["no bool"] = refused(node.qemu(9000).clone.post, newid=101, full="true")
    done(api, node.qemu(9000).clone.post(newid=101, pool="k3s", name="w1"))
    done(api, node.qemu(101).config.post(tags="k3s;img-1", ciuser="ops", ciupgrade=0,
                                         ipconfig0="ip=192.0.2.10/24,gw=192.0.2.1"))
    seen["config"] = {key: node.qemu(101).config.get()[key] for key in ("name", "tags", "memory", "ciupgrade")}
    done(api, node.qemu(101).resize.put(disk="scsi0", size="+1G"))
    seen["agent off"] = refused(node.qemu(101).agent.ping.post)
    done(api, node.qemu(101).status.start.post())
    while True:
        try:
            node.qemu(101).agent.ping.post()
            break
        except ResourceException as error:
            if "guest agent is not running" not in str(error):
                raise
    node.qemu(101).agent("file-write").post(file="/run/firstboot/join/token", content="s3cret")
    seen["running"] = node.qemu(101).status.current.get()["status"]
    seen["delete running"] = refused(node.qemu(101).delete)
    done(api, node.qemu(101).status.stop.post())
    done(api, node.qemu(101).delete(purge=1))
    done(api, node.qemu(9000).delete(purge=1))
    done(api, node.storage("local").content("local:import/node.qcow2").delete())
    print(json.dumps(seen))


main()
