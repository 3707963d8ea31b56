//! The guest's side of a running VM: its agent, its address, its files.

use serde_json::{Value as Json, json};

use super::{Vm, World};

/// The folders an agent can write into; each is in every image of the project or of Debian.
const FOLDERS: [&str; 4] = ["/run/firstboot/join/", "/run/k3s-join/", "/run/", "/tmp/"];

impl World {
    /// The agent answers, or Proxmox' words why not.
    pub(crate) fn agent(&mut self, node: &str, vmid: u32) -> Result<(), String> {
        let now = self.clock.now();
        let vm = self.vm(node, vmid)?;
        if !vm.has_agent() {
            return Err("No QEMU guest agent configured".to_owned());
        }
        let Some(run) = &vm.run else { return Err(format!("VM {vmid} is not running")) };
        let modelled = run.agent_at.is_some_and(|at| at <= now);
        let answers = self.machine.as_mut().map_or(modelled, |machine| machine.ping(vmid).is_ok());
        if answers { Ok(()) } else { Err("QEMU guest agent is not running".to_owned()) }
    }

    /// Writes a file as the agent does.
    pub(crate) fn write_file(
        &mut self,
        vmid: u32,
        name: &str,
        content: &[u8],
    ) -> Result<(), String> {
        if let Some(machine) = &mut self.machine {
            machine
                .write_file(vmid, name, content)
                .map_err(|error| format!("Agent error: {error:#}"))?;
        } else if !FOLDERS
            .iter()
            .any(|folder| name.strip_prefix(folder).is_some_and(|rest| !rest.contains('/')))
        {
            return Err(format!(
                "Agent error: failed to open file '{name}' (mode: 'wb'): No such file or directory"
            ));
        }
        if let Some(run) = self.vms.get_mut(&vmid).and_then(|vm| vm.run.as_mut()) {
            run.files.insert(name.to_owned(), content.to_vec());
        }
        Ok(())
    }

    /// The guest's interfaces: loopback, and a card for each of the VM's with the address of its settings.
    pub(crate) fn interfaces(&mut self, vmid: u32) -> Result<Json, String> {
        if let Some(machine) = &mut self.machine {
            return machine.interfaces(vmid).map_err(|error| format!("Agent error: {error:#}"));
        }
        let now = self.clock.now();
        let Some(vm) = self.vms.get(&vmid) else { return Ok(json!([])) };
        let up = vm.run.as_ref().and_then(|run| run.address_at).is_some_and(|at| at <= now);
        let mut found = vec![json!({
            "name": "lo", "hardware-address": "00:00:00:00:00:00",
            "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}],
        })];
        for (key, text) in vm.config.iter().filter(|(key, _)| super::drive::is_net(key)) {
            found.push(card(vm, key.trim_start_matches("net"), text, up, vmid));
        }
        Ok(Json::Array(found))
    }
}

fn card(vm: &Vm, number: &str, text: &str, up: bool, vmid: u32) -> Json {
    let mac =
        crate::table::TABLE.split("net", text).remove("macaddr").unwrap_or_default().to_lowercase();
    let keys =
        vm.get(&format!("ipconfig{number}")).map(|ip| crate::table::TABLE.split("ipconfig", ip));
    let ip = keys.and_then(|mut keys| keys.remove("ip"));
    // A server of addresses would give one that follows from the id.
    let given = match ip.as_deref() {
        Some("dhcp") | None => format!("192.0.2.{}/24", vmid % 200 + 20),
        Some(cidr) => cidr.to_owned(),
    };
    let (address, prefix) = given.split_once('/').unwrap_or((&given, "24"));
    let mut addresses = json!([]);
    if up {
        let prefix = prefix.parse().unwrap_or(24);
        addresses = json!([{"ip-address-type": "ipv4", "ip-address": address, "prefix": prefix}]);
    }
    json!({"name": format!("eth{number}"), "hardware-address": mac, "ip-addresses": addresses})
}
