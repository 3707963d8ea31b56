//! Why the cluster's API and an administrator's credentials do not fit, where that is so for good.

use std::error::Error;

use rustls::CertificateError;

use crate::proxmox::tls::{foreign, out_of_date};

/// Where fresh ones are.
const FRESH: &str = "copy /etc/rancher/k3s/k3s.yaml of a server anew (put its address in place of \
                     127.0.0.1)";

/// What waiting does not make better; `None`: it may pass.
pub fn of(error: &kube::Error) -> Option<String> {
    if let kube::Error::Api(status) = error {
        let says = format!("the API says {} ({})", status.message, status.code);
        return match status.code {
            401 => Some(format!("{says}: K3s' client certificates last a year; {FRESH}")),
            403 => Some(format!("{says}: they are no administrator's; {FRESH}")),
            _ => None,
        };
    }
    let certificate = certificate(error)?;
    Some(match (out_of_date(certificate), foreign(certificate)) {
        (Some(time), _) => format!(
            "the API's certificate {time}; check this machine's clock, else restart K3s on the server, \
             which renews it"
        ),
        (_, Some(name)) => {
            format!("the API's certificate {name}; write one of its names into the file")
        }
        _ => format!(
            "the API's certificate is not signed by the CA in them ({certificate}): they are of another \
             cluster, or the cluster was made anew; {FRESH}"
        ),
    })
}

/// The certificate's fault at the bottom of a failed call. Errors of connections are wrapped more than
/// once, and do not name what they wrap as their source.
fn certificate<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
        return Some(why);
    }
    match error.downcast_ref::<std::io::Error>() {
        Some(wrapped) => certificate(wrapped.get_ref()?),
        None => certificate(error.source()?),
    }
}
