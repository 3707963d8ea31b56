//! Whether the nodes of `cluster.toml` have room for what the bundle's pods ask for. What a chart asks
//! for stands in its release's `release.toml`, as a chart may not be here to be rendered; where it is,
//! the statement is held against it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul};

use node::config::Role;
use serde_json::Value;

use super::references::pod_of;
use crate::config::{CLUSTER_FILE, Problem, Project};

const MIB: u64 = 1 << 20;
/// Memory that a node's system and K3s itself need, by K3s' own requirements (docs.k3s.io,
/// installation/requirements): 2 GB for a server, 512 MB for an agent.
const OWN: [(Role, u64); 2] = [(Role::Server, 2048 * MIB), (Role::Agent, 512 * MIB)];

/// What pods ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// Thousandths of a processor.
    pub milli: u64,
    /// Bytes of memory.
    pub memory: u64,
}

/// What a release asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// All its pods together, but for those of each node.
    pub together: Request,
    /// Its pods of one node.
    pub per_node: Request,
}

impl Add for Request {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { milli: self.milli + other.milli, memory: self.memory + other.memory }
    }
}

impl Mul<u64> for Request {
    type Output = Self;
    fn mul(self, times: u64) -> Self {
        Self { milli: self.milli * times, memory: self.memory * times }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m of processors and {} MiB of memory", self.milli, self.memory.div_ceil(MIB))
    }
}

impl Request {
    /// Of texts as Kubernetes writes them.
    ///
    /// # Errors
    /// The rule that one breaks.
    pub fn parse(cpu: &str, memory: &str) -> Result<Self, String> {
        let milli = match cpu.strip_suffix('m') {
            Some(number) => number.parse().ok(),
            None => cpu.parse::<u64>().ok().map(|cores| cores * 1000),
        };
        let milli = milli.ok_or("cpu must be such as `250m` or `2`")?;
        let units = [("Gi", 1024 * MIB), ("Mi", MIB), ("Ki", 1024)];
        let memory = units.iter().find_map(|(unit, bytes)| {
            Some(memory.strip_suffix(unit)?.parse::<u64>().ok()? * bytes)
        });
        Ok(Self { milli, memory: memory.ok_or("memory must be such as `512Mi` or `1Gi`")? })
    }

    fn fits(self, room: Self) -> bool {
        self.milli <= room.milli && self.memory <= room.memory
    }
}

impl Requests {
    /// Of plain objects. A `CronJob` counts as one that runs.
    ///
    /// # Errors
    /// The rule that a quantity breaks, with its object.
    pub fn of(objects: &[Value]) -> Result<Self, String> {
        let mut sum = Self::default();
        for object in objects {
            // Such a CronJob is there to be run by hand.
            let Some(spec) = pod_of(object).filter(|_| object["spec"]["suspend"] != true) else {
                continue;
            };
            let pod =
                pod(spec).map_err(|rule| format!("{}: {rule}", super::objects::title(object)))?;
            if object["kind"] == "DaemonSet" {
                sum.per_node = sum.per_node + pod;
            } else {
                sum.together =
                    sum.together + pod * object["spec"]["replicas"].as_u64().unwrap_or(1);
            }
        }
        Ok(sum)
    }

    /// Whether this is enough for `needed`.
    pub fn cover(&self, needed: &Self) -> bool {
        needed.together.fits(self.together) && needed.per_node.fits(self.per_node)
    }
}

/// What one pod asks for: its containers together, as those that begin it are done by then.
fn pod(spec: &Value) -> Result<Request, String> {
    let mut sum = Request::default();
    for container in spec["containers"].as_array().into_iter().flatten() {
        let asked = &container["resources"]["requests"];
        let text = |value: &Value| match value {
            Value::Number(number) => number.to_string(),
            value => value.as_str().unwrap_or_default().to_owned(),
        };
        let or = |text: String, nothing: &str| {
            if text.is_empty() { nothing.to_owned() } else { text }
        };
        let (cpu, memory) = (or(text(&asked["cpu"]), "0"), or(text(&asked["memory"]), "0Mi"));
        sum = sum + Request::parse(&cpu, &memory)?;
    }
    Ok(sum)
}

/// Nodes of one profile.
#[derive(Debug)]
struct Class {
    nodes: u64,
    /// Whether ordinary pods may run there.
    general: bool,
    /// What the smallest node has for pods.
    smallest: Request,
    /// What all have together.
    together: Request,
}

/// Where the bundle does not fit. `all` is what its releases ask for.
pub fn check(project: &Project, all: &[Requests]) -> Vec<Problem> {
    let per_node = all.iter().fold(Request::default(), |sum, one| sum + one.per_node);
    let wanted = all.iter().fold(Request::default(), |sum, one| sum + one.together);
    let (mut problems, mut room) = (Vec::new(), Request::default());
    let hint = "larger `vm` sizes, further nodes, or releases off by [bundle]".to_owned();
    let mut general = Vec::new();
    for (name, class) in classes(project) {
        if !per_node.fits(class.smallest) {
            let rule = format!(
                "the bundle runs pods on each node that ask for {per_node}; a node of the profile \
                 `{name}` has {} for pods",
                class.smallest
            );
            problems.push(Problem::of_file(CLUSTER_FILE, rule).hint(hint.clone()));
        }
        if class.general {
            room = room + class.together;
            general.push((name, class.nodes));
        }
    }
    let nodes = general.iter().map(|(_, nodes)| nodes).sum();
    let wanted = wanted + per_node * nodes;
    if !wanted.fits(room) {
        let names: Vec<_> = general.iter().map(|(name, n)| format!("{n} of `{name}`")).collect();
        let rule = format!(
            "the bundle's pods ask for {wanted}; the nodes that take ordinary pods ({}) have {room}",
            names.join(", ")
        );
        problems.push(Problem::of_file(CLUSTER_FILE, rule).hint(hint));
    }
    problems
}

/// The nodes by their profiles. A taint keeps ordinary pods away, also one that only prefers to.
fn classes(project: &Project) -> BTreeMap<&str, Class> {
    let mut classes = BTreeMap::<&str, Class>::new();
    for node in &project.cluster.nodes {
        let Some(profile) = project.profiles.get(&node.profile) else { continue };
        let own = OWN.iter().find(|(role, _)| *role == profile.role).map_or(0, |(_, own)| *own);
        let memory = node.vm.memory.bytes().saturating_sub(own);
        let room = Request { milli: u64::from(node.vm.cores) * 1000, memory };
        let class = classes.entry(node.profile.as_str()).or_insert(Class {
            nodes: 0,
            general: profile.k3s.taints.is_empty(),
            smallest: room,
            together: Request::default(),
        });
        class.nodes += 1;
        class.together = class.together + room;
        class.smallest.milli = class.smallest.milli.min(room.milli);
        class.smallest.memory = class.smallest.memory.min(room.memory);
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        let request = |milli, memory| Request { milli, memory };
        assert_eq!(Request::parse("250m", "512Mi"), Ok(request(250, 512 * MIB)));
        assert_eq!(Request::parse("2", "1Gi"), Ok(request(2000, 1024 * MIB)));
        assert!(Request::parse("lots", "1Gi").unwrap_err().starts_with("cpu"));
        assert!(Request::parse("1", "1GB").unwrap_err().starts_with("memory"));
    }

    #[test]
    fn pods_are_counted_once_for_each_replica_or_node() {
        let container = json!({"resources": {"requests": {"cpu": 1, "memory": "64Mi"}}});
        let template = json!({"spec": {"containers": [container, {}]}});
        let objects = [
            json!({"kind": "Deployment", "spec": {"replicas": 3, "template": template}}),
            json!({"kind": "DaemonSet", "spec": {"template": template}}),
            json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": template}}}}),
            json!({"kind": "ConfigMap"}),
        ];
        let found = Requests::of(&objects).unwrap();
        assert_eq!(found.together, Request { milli: 4000, memory: 256 * MIB });
        assert_eq!(found.per_node, Request { milli: 1000, memory: 64 * MIB });
        let more = Requests { together: found.together * 2, ..found };
        assert!(more.cover(&found) && !found.cover(&more));
    }
}
