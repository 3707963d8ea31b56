//! Requests to a K3s server that is not known yet: one that trusts nobody and takes what is shown,
//! and one under a CA that is trusted by then.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Request;
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Connection, handshake and answer together. A server in the same network answers in milliseconds;
/// one that starts is asked again later.
const LIMIT: Duration = Duration::from_secs(3);

/// The longest answer read: a CA certificate has 600 bytes.
const LONGEST: usize = 64 << 10;

/// What `url` answers to anyone, from anyone.
///
/// # Errors
/// No answer in time, or a status that is no success.
pub fn get_untrusted(url: &str) -> Result<Vec<u8>> {
    let verifier = Arc::new(TakeAny(rustls::crypto::ring::default_provider()));
    let config = client().dangerous().with_custom_certificate_verifier(verifier);
    fetch(url, config.with_no_client_auth())
}

/// What `url` answers, from whoever has a certificate of `ca` (PEM) for its address.
///
/// # Errors
/// As [`get_untrusted`], or its certificate is not of that CA.
pub fn get(url: &str, ca: &[u8]) -> Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    for one in CertificateDer::pem_slice_iter(ca) {
        roots.add(one.context("the CA is no certificate")?)?;
    }
    fetch(url, client().with_root_certificates(roots).with_no_client_auth())
}

fn client() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    // A second call finds it installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ClientConfig::builder()
}

fn fetch(url: &str, config: ClientConfig) -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = Request::get(url).body(String::new()).context("failed to make a request")?;
    let work = async {
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
        let client: Client<_, String> =
            Client::builder(TokioExecutor::new()).build(https.enable_http1().build());
        let answer = client.request(request).await.map_err(cause)?;
        ensure!(answer.status().is_success(), "it answers {}", answer.status());
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        let body = body.map_err(|e| anyhow::anyhow!("its answer cannot be read: {e}"))?;
        Ok(body.to_bytes().to_vec())
    };
    runtime.block_on(async {
        tokio::time::timeout(LIMIT, work)
            .await
            .with_context(|| format!("no answer in {:.1} s", LIMIT.as_secs_f64()))?
    })
}

/// The innermost cause: what stands around it says only that a request failed.
fn cause(error: hyper_util::client::legacy::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    anyhow::anyhow!("{}", error.root_cause())
}

/// Believes nothing of the certificate and keeps the handshake sound: what comes over this
/// connection is public, and is compared with what is known.
#[derive(Debug)]
struct TakeAny(rustls::crypto::CryptoProvider);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
