//! A failure told by ntfy, straight from the node: Alertmanager may not exist yet (D15).
//!
//! A unit of its own sends it: a stage only asks systemd to start that one, so that no boot ever
//! waits for a server that is away. systemd starts it again until it was sent or is out of date.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, header};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use node::config::NodeConfig;
use node::files::ensure_file;
use node::report::{Failure, Report, State};

use crate::boot::Machine;
use crate::{journal, reporting, systemd};

/// The unit that runs `firstboot notify`.
const UNIT: &str = "firstboot-notify.service";

/// The step whose failure was told in this boot; on a tmpfs. The cluster stage tries again every
/// half minute, which nobody wants to hear each time.
const TOLD: &str = "run/firstboot/told";

/// Name, connection, TLS and answer together: a server in the home answers within milliseconds,
/// one on the internet within a second.
const LIMIT: Duration = Duration::from_secs(5);

/// Longest cause sent, in bytes: ntfy makes an attachment of a text beyond 4096.
const LONGEST: usize = 3000;

/// Asks systemd to tell the failure of `report`, if there is one and someone to tell. Does not
/// wait and cannot fail: a node must not stay down because nobody can be told about it.
pub fn start(machine: &Machine, config: &NodeConfig, report: &Report) {
    if report.state == State::Waiting || report.failure.is_none() || config.cluster.ntfy.is_none() {
        return;
    }
    if let Err(error) = systemd::start(&[UNIT], false) {
        journal::warn(&machine.root, "notify", &format!("{error:#}"));
    }
}

/// `firstboot notify`: sends the failure of this boot, unless it was sent.
///
/// # Errors
/// The server cannot be reached or refuses.
pub fn notify(machine: &Machine) -> Result<()> {
    let config = NodeConfig::load(&machine.root)?;
    let report = reporting::earlier(machine).filter(|r| r.state != State::Waiting);
    let failure = report.as_ref().and_then(|r| r.failure.as_ref());
    let (Some(url), Some(failure)) = (&config.cluster.ntfy, failure) else { return Ok(()) };
    let told = machine.path(TOLD);
    if fs_err::read_to_string(&told).is_ok_and(|step| step == failure.step) {
        return Ok(());
    }
    send(url, request(url, machine, &config, failure)?)
        .with_context(|| format!("failed to tell {url} that step `{}` failed", failure.step))?;
    ensure_file(&told, failure.step.as_bytes(), 0o644)?;
    Ok(())
}

/// ntfy's publish call: the text is the body, the rest are headers.
fn request(
    url: &str,
    machine: &Machine,
    config: &NodeConfig,
    failure: &Failure,
) -> Result<Request<String>> {
    let title = format!("{}: firstboot failed at {}", machine.hostname, failure.step);
    let text = format!(
        "{}\nTo fix: {}\nImage {}, cluster {}",
        head(&failure.cause),
        failure.fix,
        config.image_id,
        config.cluster.name
    );
    Request::post(url)
        .header("Title", title)
        .header("Priority", "high")
        .header("Tags", "rotating_light")
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(text)
        .context("failed to make a request")
}

/// The beginning of `text`, whole characters.
fn head(text: &str) -> &str {
    let end = (0..=text.len().min(LONGEST)).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

fn send(url: &str, request: Request<String>) -> Result<()> {
    // A second call finds it installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let https = HttpsConnectorBuilder::new()
            .with_native_roots()
            .context("the node has no certificates to trust")?
            .https_or_http()
            .enable_http1()
            .build();
        let client: Client<_, String> = Client::builder(TokioExecutor::new()).build(https);
        let answer = tokio::time::timeout(LIMIT, client.request(request)).await;
        answer
            .with_context(|| format!("no answer in {:.1} s", LIMIT.as_secs_f64()))?
            .context("the request failed")
    });
    // A name server that does not answer keeps its thread for longer than we wait.
    runtime.shutdown_background();
    let status = answer?.status();
    ensure!(status.is_success(), "{url} answers {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cause_is_cut_between_characters() {
        assert_eq!(head("short"), "short");
        let long = "ä".repeat(LONGEST);
        assert!(head(&format!("x{long}")).len() < LONGEST);
        assert_eq!(head(&long).len(), LONGEST);
    }
}
