//! A Job as a check of a node: made once for each boot of a node, looked at until it has succeeded, made
//! again when it failed.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use kube::api::{DeleteParams, PostParams, PropagationPolicy};
use node::values::Digest;

use super::Kube;
use crate::life::{Answer, Failed, Health};

/// What in a manifest becomes the node's name.
const NODE: &str = "{node}";
/// Hex digits that tell the Job of one boot from that of another.
const UNIQUE: usize = 8;
/// A name has 63 characters, and pods of a Job add some of their own.
const LONGEST: usize = 40;

impl Kube {
    /// The Job of a manifest for a node; `boot` makes its name one of its own.
    ///
    /// # Errors
    /// The text is no Job.
    pub fn job_of(text: &str, node: &str, boot: &str) -> Result<Job> {
        let text = text.replace(NODE, node);
        let mut job: Job = serde_saphyr::from_str(&text).context("is no manifest of a Job")?;
        let name = job.metadata.name.take().context("has no metadata.name")?;
        ensure!(job.spec.is_some(), "has no spec");
        let short: String = name.chars().take(LONGEST).collect();
        let unique = Digest::of(format!("{name} {node} {boot}")).short(UNIQUE);
        job.metadata.name = Some(format!("{short}-{unique}"));
        Ok(job)
    }

    /// Looks at the Job of `text` for this boot of a node, and makes it where there is none.
    ///
    /// # Errors
    /// The API does not answer or refuses the Job.
    pub fn ask_job(&self, path: &str, text: &str, node: &str) -> Answer<Health> {
        let seen = self.node(node)?;
        let boot = seen.map(|n| format!("{} {}", n.uid, n.boot_id)).unwrap_or_default();
        let job = Self::job_of(text, node, &boot);
        let job = job.map_err(|e| Failed::Never(format!("{path} {e:#}")))?;
        let name = job.metadata.name.clone().unwrap_or_default();
        let namespace = job.metadata.namespace.as_deref().unwrap_or("default");
        let jobs = self.namespaced::<Job>(namespace);
        let bad =
            |why: &str| Ok(Health::Bad(format!("gate {path}: the Job {namespace}/{name} {why}")));
        let Some(found) = self.wait(jobs.get_opt(&name))? else {
            self.wait(jobs.create(&PostParams::default(), &job))?;
            return bad("has just begun");
        };
        match ended(&found.status.unwrap_or_default()) {
            Some(true) => Ok(Health::Good),
            None => bad("has not ended"),
            Some(false) => {
                // The next look makes it anew. Its pods go too: their log was there to be read.
                let params = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Background),
                    ..DeleteParams::default()
                };
                self.wait_gone(jobs.delete(&name, &params))?;
                bad("failed")
            }
        }
    }
}

/// Whether it succeeded; `None`: it goes on.
fn ended(status: &JobStatus) -> Option<bool> {
    let conditions = status.conditions.iter().flatten().filter(|c| c.status == "True");
    conditions.map(|c| c.type_.as_str()).find_map(|word| match word {
        "Complete" => Some(true),
        "Failed" => Some(false),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: smoke, namespace: apps}\n\
                        spec: {template: {spec: {nodeName: \"{node}\", containers: []}}}\n";

    #[test]
    fn each_boot_of_a_node_has_a_job_of_its_own() {
        let name = |node, boot| Kube::job_of(TEXT, node, boot).unwrap().metadata.name.unwrap();
        assert_eq!(name("w1", "a"), name("w1", "a"));
        assert_ne!(name("w1", "a"), name("w1", "b"));
        assert_ne!(name("w1", "a"), name("w2", "a"));
        let job = Kube::job_of(TEXT, "w1", "a").unwrap();
        let pod = job.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.node_name.as_deref(), Some("w1"));
        for bad in ["a: [", "metadata: {name: x}", "spec: {template: {}}"] {
            assert!(Kube::job_of(bad, "w1", "a").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_job_has_ended_when_a_condition_says_so() {
        let status = |kind: &str, is: &str| {
            let conditions = json!([{"type": kind, "status": is}]);
            ended(&serde_json::from_value(json!({ "conditions": conditions })).unwrap())
        };
        assert_eq!(status("Complete", "True"), Some(true));
        assert_eq!(status("Failed", "True"), Some(false));
        assert_eq!(status("Failed", "False"), None);
        assert_eq!(status("Suspended", "True"), None);
    }
}
