//! What a rollout costs of its own: every wait passes in virtual time, so that what is left is the engine,
//! its calls over TLS, its files, and what the doubles need to answer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use builder::kubernetes::Kube;
use builder::life::{Answer, End, Folder, Gates, Health, Member, Run, Time, Wish, World, plan};
use builder::proxmox::clock::Clock;
use builder::proxmox::life::{Vms, member};
use builder::secrets::Escrow;
use node::values::Hostname;
use pve_double::{Double, Setup};

use crate::api::Api;
use crate::k3s::Nodes;
use crate::project::Site;

/// A pause lets the doubles live for so long, and takes no time.
struct Virtual {
    double: Arc<Double>,
    nodes: Mutex<Nodes>,
    now: Mutex<Duration>,
}

impl Clock for Virtual {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn pause(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
        self.double.advance(time);
        self.nodes.lock().unwrap().turn();
    }
}

impl Time for Virtual {
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

struct Healthy;

impl Gates for Healthy {
    fn ask(&self, _: &Hostname) -> Answer<Health> {
        Ok(Health::Good)
    }
}

/// m1 and so many workers in the cluster's file.
fn site(workers: usize) -> Site {
    let mut site = Site::new(Setup::default());
    let path = site.folder.path().join("cluster/cluster.toml");
    let text = fs_err::read_to_string(&path).unwrap();
    let node = |n: usize| {
        format!(
            "[[node]]\nname = \"w{n}\"\nprofile = \"worker\"\naddress = \"127.0.2.{}\"\nvmid = {}\nhost = \
             \"pve1\"\n",
            n + 120,
            400 + n
        )
    };
    let more: String = (2..=workers).map(node).collect();
    fs_err::write(path, text + "\n" + &more).unwrap();
    site.project =
        builder::config::Project::load(site.folder.path()).unwrap_or_else(|p| panic!("{p}"));
    site
}

/// The node's VM runs and has its secret.
fn born(site: &Site, name: &str, vmid: u32) {
    site.double.world(|world| {
        let profile = if name.starts_with('m') { "profile-master" } else { "profile-worker" };
        let is_its = |vm: &pve_double::Vm| {
            vm.is_template() && vm.get("tags").is_some_and(|tags| tags.contains(profile))
        };
        let mut clone = world.vms.values().find(|vm| is_its(vm)).unwrap().clone();
        clone.config.remove("template");
        clone.config.insert("name".into(), name.into());
        let tags = format!("{};node-{name}", clone.get("tags").unwrap());
        clone.config.insert("tags".into(), tags);
        let mut run = pve_double::Run { agent_at: Some(0), ..pve_double::Run::default() };
        run.files.insert("/run/firstboot/join/payload".into(), b"x".to_vec());
        clone.run = Some(run);
        world.vms.insert(vmid, clone);
        world.pools.get_mut("k3s").unwrap().insert(vmid);
    });
}

/// Seconds and calls of a rollout over so many workers, and of its plan.
fn rollout(workers: usize) -> (f64, usize) {
    let site = site(workers);
    site.push_of("master", 1).unwrap();
    site.push(1).unwrap();
    let api = Api::start();
    let kubeconfig = site.folder.path().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig);
    let cluster = &site.project.cluster;
    for spec in &cluster.nodes {
        born(&site, spec.name.as_str(), spec.vmid.get());
    }
    let nodes = Nodes::new(Arc::clone(&site.double), api.clone(), Arc::default());
    let time = Virtual {
        double: Arc::clone(&site.double),
        nodes: Mutex::new(nodes),
        now: Mutex::default(),
    };
    time.pause(Duration::from_mins(1));
    site.push(2).unwrap();
    let (kube, escrow) =
        (Kube::connect(&kubeconfig).unwrap(), Escrow::mint(&cluster.name).unwrap());
    let role = |profile: &str| site.project.profile(profile).unwrap().role;
    let members: Vec<Member> =
        cluster.nodes.iter().map(|n| member(n, role(&n.profile)).unwrap()).collect();
    let vms = Vms {
        client: &site.client,
        cluster,
        escrow: Some(&escrow),
        kube: Some(&kube),
        ca: None,
        servers: 1,
    };
    let state = tempfile::tempdir().unwrap();
    let shelf = Folder::own(state.path()).unwrap();
    let world = World {
        hypervisor: &vms,
        cluster: &kube,
        gates: &Healthy,
        time: &time,
        shelf: &shelf,
        members: &members,
        say: &|_| (),
    };
    let calls = || site.double.world(|world| world.seen.len()) + api.store().log.len();
    let (before, start) = (calls(), Instant::now());
    let mut run = Run::new(world, plan(&world, &Wish::default()).unwrap()).unwrap();
    run.run().unwrap();
    let took = start.elapsed().as_secs_f64();
    assert_eq!(run.rollout().outcome, Some(End::Done), "{:?}", run.rollout().cause);
    assert_eq!(run.rollout().rows.len(), workers);
    let images: BTreeSet<_> = run.rollout().rows.iter().map(|row| row.to.to_string()).collect();
    assert_eq!(images.len(), 1);
    (took, calls() - before)
}

/// What a node costs does not grow with the number of the others.
#[test]
fn a_node_of_a_rollout_takes_as_many_calls_in_a_large_cluster_as_in_a_small_one() {
    let (few, many) = (rollout(2).1 / 2, rollout(6).1 / 6);
    println!("calls a node: {few} of 2 nodes, {many} of 6");
    assert!(many <= few, "{many} calls a node of 6, {few} of 2");
}

#[test]
#[ignore = "a benchmark; `just bench-builder` runs it"]
fn bench_the_overhead_of_a_rollout_is_small() {
    let workers = 100;
    let (took, calls) = rollout(workers);
    let (each, calls) = (took / 100.0, calls / workers);
    println!(
        "bench: rollout, own time per node: {each:.2} s ({workers} nodes, {calls} calls a node, every wait left \
         out; with what the doubles take to answer)"
    );
    assert!(each <= 2.0);
}
