//! Certificates as a Proxmox cluster has them: a CA of its own, and a certificate of the node under it.

use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};

use crate::setup::CertificateSetup;

/// What the server shows and what a client needs to believe it.
pub(crate) struct Identity {
    pub config: Arc<ServerConfig>,
    pub ca_pem: String,
    pub pem: String,
    /// SHA-256 of the node's certificate, upper case with colons.
    pub fingerprint: String,
    pub ca_fingerprint: String,
}

/// Makes a new CA and a certificate under it.
pub(crate) fn identity(setup: &CertificateSetup) -> Result<Identity> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "Proxmox Virtual Environment");
    ca.distinguished_name.push(DnType::OrganizationName, "PVE Cluster Manager CA");
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(setup.names.clone())?;
    let day = |(year, month, day): (i32, u8, u8)| rcgen::date_time_ymd(year, month, day);
    (leaf.not_before, leaf.not_after) = (day(setup.from), day(setup.until));
    leaf.distinguished_name.push(DnType::CommonName, "pve1");
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(&key, &issuer)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .context("failed to set up TLS")?;
    // Proxmox speaks nothing newer than HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity {
        config: Arc::new(config),
        fingerprint: fingerprint(certificate.der()),
        ca_fingerprint: fingerprint(ca_certificate.der()),
        ca_pem: ca_certificate.pem(),
        pem: certificate.pem(),
    })
}

fn fingerprint(der: &[u8]) -> String {
    let pairs: Vec<String> = Sha256::digest(der).iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}
