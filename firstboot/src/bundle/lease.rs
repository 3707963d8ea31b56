//! One server at a time: a Lease that is renewed before each piece of work, for as long as that piece
//! may take. A server that died holds it no longer than that; its own next run takes over at once.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ObjectMeta, PostParams};
use node::failpoint;

use super::record::NAMESPACE;
use crate::kubernetes::Kubernetes;

/// Name of the Lease.
pub const NAME: &str = "firstboot-bundle";
/// For work between two renewals that is no release's: CRDs, namespaces.
const SHORT: Duration = Duration::from_mins(5);

/// The Lease, held.
#[derive(Debug)]
pub struct Lease<'a> {
    kubernetes: &'a Kubernetes,
    held: coordination::Lease,
}

impl<'a> Lease<'a> {
    /// Takes the Lease if it is free, expired, or `holder`'s own; `Err` inside names who has it.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn take(kubernetes: &'a Kubernetes, holder: &str) -> Result<Result<Self, String>> {
        let api = api(kubernetes);
        let found = kubernetes.wait(api.get_opt(NAME)).context("failed to ask for the Lease")?;
        let now = Timestamp::now();
        let spec = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        if let Some(other) = holder_of(&spec, holder, now) {
            return Ok(Err(other));
        }
        let wanted = coordination::Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                resource_version: found.as_ref().and_then(|l| l.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                acquire_time: Some(MicroTime(now)),
                renew_time: Some(MicroTime(now)),
                lease_duration_seconds: Some(seconds(SHORT)),
                ..LeaseSpec::default()
            }),
        };
        failpoint::reach();
        let params = PostParams::default();
        let taken = match found {
            Some(_) => kubernetes.wait(api.replace(NAME, &params, &wanted)),
            None => kubernetes.wait(api.create(&params, &wanted)),
        };
        failpoint::reach();
        match taken {
            Ok(held) => Ok(Ok(Self { kubernetes, held })),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(Err("another server, just now".to_owned()))
            }
            Err(error) => Err(error).context("failed to take the Lease"),
        }
    }

    /// Keeps it for as long as the next piece of work may take.
    ///
    /// # Errors
    /// Another server has taken it, which it only does when this one was away for longer than it said.
    pub fn keep(&mut self, work: Duration) -> Result<()> {
        self.write(|spec| {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            spec.lease_duration_seconds = Some(seconds(work + SHORT));
        })
        .context("lost the Lease to another server")
    }

    /// Gives it to whoever comes next.
    ///
    /// # Errors
    /// The API does not answer; it then expires.
    pub fn give_up(&mut self) -> Result<()> {
        self.write(|spec| spec.holder_identity = None).context("failed to give the Lease up")
    }

    fn write(&mut self, change: impl FnOnce(&mut LeaseSpec)) -> Result<()> {
        let Some(spec) = &mut self.held.spec else { bail!("a Lease without content") };
        change(spec);
        let api = api(self.kubernetes);
        failpoint::reach();
        self.held = self.kubernetes.wait(api.replace(NAME, &PostParams::default(), &self.held))?;
        failpoint::reach();
        Ok(())
    }
}

fn api(kubernetes: &Kubernetes) -> Api<coordination::Lease> {
    Api::namespaced(kubernetes.client(), NAMESPACE)
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

/// Who else holds it at the time `now`.
fn holder_of(spec: &LeaseSpec, me: &str, now: Timestamp) -> Option<String> {
    let holder = spec.holder_identity.as_deref().filter(|h| !h.is_empty() && *h != me)?;
    let length = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(0).into());
    let until = spec.renew_time.as_ref()?.0.checked_add(length).ok()?;
    (now < until).then(|| holder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_anothers_only_while_it_lasts() {
        let now = Timestamp::now();
        let spec = |holder: &str, age: i64, length: i32| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(now - SignedDuration::from_secs(age))),
            lease_duration_seconds: Some(length),
            ..LeaseSpec::default()
        };
        assert_eq!(holder_of(&spec("a", 10, 60), "b", now).as_deref(), Some("a"));
        for free in [spec("b", 10, 60), spec("", 10, 60), spec("a", 61, 60), LeaseSpec::default()] {
            assert_eq!(holder_of(&free, "b", now), None, "{free:?}");
        }
    }
}
