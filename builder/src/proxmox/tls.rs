//! Whom the client talks to: a certificate by the cluster's own CA, one whose fingerprint was
//! pinned, or one of the system's roots. There is no way to trust just anyone.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use node::values::Digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// SHA-256 of a certificate, written as Proxmox shows it: hex pairs with `:` between them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(Digest);

impl Fingerprint {
    /// Of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Digest::of(der))
    }

    /// From text with or without `:`, in either case.
    pub fn parse(text: &str) -> Option<Self> {
        let paired = text.len() == 64 || text.split(':').all(|pair| pair.len() == 2);
        let hex = text.replace(':', "").to_ascii_lowercase();
        hex.parse().ok().filter(|_| paired).map(Self)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.0.as_bytes().iter().map(|b| format!("{b:02X}")).collect();
        f.write_str(&pairs.join(":"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What makes a certificate good.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Signed by the CA in this PEM file, valid today, made for the name that is called.
    Ca(std::path::PathBuf),
    /// One of these, whoever signed it and for whatever name and time: it is known by sight.
    Pinned(Vec<Fingerprint>),
    /// Signed by one of the system's roots.
    System,
}

/// A certificate that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Of the certificate the server showed.
    pub found: Fingerprint,
    /// Why it is not good, in words.
    pub why: String,
    /// What to do about it.
    pub fix: String,
}

/// Judges certificates, and remembers the last one it refused so that a message can show it.
#[derive(Debug)]
pub struct Verifier {
    trust: Trust,
    /// `None` for pinned fingerprints, which need no chain.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    refused: Mutex<Option<Refused>>,
}

impl Verifier {
    /// For this trust.
    ///
    /// # Errors
    /// The CA file cannot be read or holds no certificate; the system has no roots.
    pub fn new(trust: Trust) -> Result<Arc<Self>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match &trust {
            Trust::Pinned(_) => None,
            Trust::Ca(path) => Some(ca(path)?),
            Trust::System => Some(system()?),
        };
        let chain = match roots {
            None => None,
            Some(roots) => {
                let made = WebPkiServerVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(&provider),
                );
                Some(made.build().context("failed to set up the check of certificates")?)
            }
        };
        Ok(Arc::new(Self { trust, chain, provider, refused: Mutex::new(None) }))
    }

    /// TLS settings that ask this verifier.
    ///
    /// # Errors
    /// Never in practice: the provider has the protocol versions it is asked for.
    pub fn client_config(self: &Arc<Self>) -> Result<ClientConfig> {
        let verifier: Arc<dyn ServerCertVerifier> = Arc::<Self>::clone(self);
        Ok(ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .context("failed to set up TLS")?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth())
    }

    /// The certificate refused last, once.
    pub fn take_refused(&self) -> Option<Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn judge(
        &self,
        found: Fingerprint,
        by_chain: impl FnOnce(&WebPkiServerVerifier) -> Result<ServerCertVerified, Error>,
    ) -> Result<ServerCertVerified, Error> {
        match (&self.trust, &self.chain) {
            (Trust::Pinned(known), _) if known.contains(&found) => {
                Ok(ServerCertVerified::assertion())
            }
            (_, Some(chain)) => by_chain(chain),
            _ => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn explain(&self, found: Fingerprint, error: &Error) -> Refused {
        let compare = "compare it with System → Certificates on that host's web page, or with \
                       `pvenode cert info` on the host";
        let (why, fix) = match (&self.trust, error) {
            (Trust::Pinned(_), _) => (
                "is not one of proxmox.fingerprints".to_owned(),
                format!(
                    "{compare}; if it is the same, the host has a new certificate: put it into \
                     proxmox.fingerprints. If not, somebody stands between you and the host"
                ),
            ),
            (_, Error::InvalidCertificate(why)) if out_of_date(why).is_some() => {
                (out_of_date(why).unwrap_or_default(), RENEW.to_owned())
            }
            (_, Error::InvalidCertificate(why)) if foreign(why).is_some() => (
                foreign(why).unwrap_or_default(),
                format!(
                    "write one of its names into proxmox.endpoint; or {compare}, and put it into \
                     proxmox.fingerprints"
                ),
            ),
            (Trust::Ca(path), error) => (
                format!("is not signed by the CA in {}: {error}", path.display()),
                format!(
                    "take /etc/pve/pve-root-ca.pem of that cluster as proxmox.ca_file; or \
                     {compare}, and put it into proxmox.fingerprints"
                ),
            ),
            (_, error) => (
                format!("is signed by nobody this machine trusts: {error}"),
                format!(
                    "give proxmox.ca_file, a copy of /etc/pve/pve-root-ca.pem; or {compare}, and \
                     put it into proxmox.fingerprints"
                ),
            ),
        };
        Refused { found, why, fix }
    }
}

/// What to do about a certificate whose time is not now.
const RENEW: &str = "check this machine's clock; if it is right, renew the certificate on the host: \
                     `pvecm updatecerts --force && systemctl restart pveproxy`, or where it is one \
                     of your own, upload the new one at System → Certificates";

/// The time of a certificate that is over, or has not come.
pub(crate) fn out_of_date(error: &CertificateError) -> Option<String> {
    use CertificateError as E;
    Some(match error {
        E::ExpiredContext { time, not_after } => {
            format!("was valid until {}; today is {}", day(*not_after), day(*time))
        }
        E::NotValidYetContext { time, not_before } => {
            format!("is valid from {} on; today is {}", day(*not_before), day(*time))
        }
        E::Expired => "is not valid any more".to_owned(),
        E::NotValidYet => "is not valid yet".to_owned(),
        _ => return None,
    })
}

fn day(time: UnixTime) -> String {
    let at = jiff::Timestamp::from_second(time.as_secs().cast_signed()).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// The names of a certificate that was made for another one.
pub(crate) fn foreign(error: &CertificateError) -> Option<String> {
    use CertificateError as E;
    Some(match error {
        E::NotValidForNameContext { expected, presented } => {
            // `DnsName("pve1")` and `IpAddress(10.0.0.1)`, as rustls shows them.
            let names = presented.iter().map(|name| {
                name.split_once('(')
                    .map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')').trim_matches('"'))
            });
            let names = names.collect::<Vec<_>>().join(", ");
            format!("is made for {names}, and not for {}", expected.to_str())
        }
        E::NotValidForName => "is not made for the name that was called".to_owned(),
        _ => return None,
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Fingerprint::of(end_entity);
        let judged = self.judge(found, |chain| {
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        });
        if let Err(error) = &judged {
            let refused = self.explain(found, error);
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
        }
        judged
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn ca(path: &Path) -> Result<RootCertStore> {
    let pem = fs_err::read(path).context("failed to read proxmox.ca_file")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate
            .with_context(|| format!("{} holds a broken certificate", path.display()))?;
        roots
            .add(certificate)
            .with_context(|| format!("{} holds what is no CA certificate", path.display()))?;
    }
    ensure!(!roots.is_empty(), "{} holds no certificate in PEM", path.display());
    Ok(roots)
}

fn system() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ensure!(
        !roots.is_empty(),
        "this machine has no root certificates (package ca-certificates); give proxmox.ca_file or \
         proxmox.fingerprints"
    );
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_proxmox_and_as_openssl_write_it() {
        let found = Fingerprint::of(b"certificate");
        let text = found.to_string();
        assert_eq!(text.len(), 95);
        assert_eq!(Fingerprint::parse(&text), Some(found));
        assert_eq!(Fingerprint::parse(&text.to_lowercase().replace(':', "")), Some(found));
        for bad in ["", "AA:BB", &text[1..], &text.replacen(':', "", 1), &text.replace('A', "G")] {
            assert_eq!(Fingerprint::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        fs_err::write(&path, "").unwrap();
        let text = Verifier::new(Trust::Ca(path)).unwrap_err().to_string();
        assert!(text.ends_with("ca.pem holds no certificate in PEM"), "{text}");
    }
}
