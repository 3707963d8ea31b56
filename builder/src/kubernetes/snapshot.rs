//! An etcd snapshot on request (D12): an annotation on a server's Node asks, `firstboot watch` on that
//! server takes it, carries it to NFS, reads it back and answers by another annotation.

use node::annotations::SNAPSHOT_REQUEST;
use node::values::Digest;

use super::Kube;
use crate::life::{Answer, Failed, Snapshot};

impl Kube {
    /// Asks the server on this Node for a snapshot; the same `nonce` again is the same request.
    ///
    /// # Errors
    /// The API does not answer or refuses, or there is no such Node.
    pub fn request_snapshot(&self, server: &str, nonce: &str) -> Answer<()> {
        let there = self.annotate(server, SNAPSHOT_REQUEST, nonce)?;
        if there { Ok(()) } else { Err(missing(server)) }
    }

    /// The answer to a request; `None`: there is none yet.
    ///
    /// # Errors
    /// The API does not answer, or the answer is damaged.
    pub fn snapshot_answer(&self, server: &str, nonce: &str) -> Answer<Option<Snapshot>> {
        let node = self.node(server)?;
        let node = node.ok_or_else(|| missing(server))?;
        parse(&node.snapshot_done, nonce)
    }
}

fn missing(server: &str) -> Failed {
    Failed::Never(format!("there is no Node {server}"))
}

/// `REQUEST FILE SHA256`.
fn parse(text: &str, nonce: &str) -> Answer<Option<Snapshot>> {
    let Some(rest) = text.strip_prefix(nonce).and_then(|rest| rest.strip_prefix(' ')) else {
        return Ok(None);
    };
    match rest.split_once(' ') {
        Some((file, sha256)) if sha256.parse::<Digest>().is_ok() => {
            Ok(Some(Snapshot { file: file.to_owned(), sha256: sha256.to_owned() }))
        }
        _ => Err(Failed::Never(format!("the answer `{text}` names no file and digest"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_request_counts() {
        let sha256 = Digest::of("x").to_string();
        let text = format!("n1 pre-rebuild-m-1 {sha256}");
        let want = Snapshot { file: "pre-rebuild-m-1".into(), sha256 };
        assert_eq!(parse(&text, "n1").unwrap(), Some(want));
        for other in ["", "n2 a b", "n11 a b"] {
            assert_eq!(parse(other, "n1").unwrap(), None);
        }
        let error = parse("n1 a b", "n1").unwrap_err().to_string();
        assert_eq!(error, "the answer `n1 a b` names no file and digest");
    }
}
