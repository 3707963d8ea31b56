//! K3s' tokens: `K10CAHASH::USER:PASSWORD` with the hash of the cluster's CA, or the password alone,
//! which is all that a cluster's first server can be given (k3s.md §2.4).

use crate::values::Digest;

/// Start of the form that pins the CA.
const FULL: &str = "K10";

/// A token taken apart. Not shown by `{:?}`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// SHA-256 of the CA certificate that `/cacerts` of a server shows; `None` in the short form.
    pub ca: Option<Digest>,
    /// `server`, `node`, or nothing: in the short form, and of a token made for one join.
    pub user: &'a str,
    /// What proves who asks; for a token made for one join, `ID.SECRET`.
    pub password: &'a str,
}

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl<'a> Token<'a> {
    /// Takes `text` apart.
    ///
    /// # Errors
    /// The rule that it breaks, as words that follow "a token"; never the text itself.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        if text.is_empty() || text.contains(char::is_whitespace) {
            return Err("that is empty or holds white space");
        }
        let Some((hash, rest)) = text.strip_prefix(FULL).and_then(|full| full.split_once("::"))
        else {
            return Ok(Self { ca: None, user: "", password: text });
        };
        let ca = hash.parse().map_err(|_| "whose part between K10 and :: is no SHA-256")?;
        let (user, password) = rest.split_once(':').unwrap_or(("", rest));
        if password.is_empty() {
            return Err("without a password");
        }
        Ok(Self { ca: Some(ca), user, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_a_token_for_one_join_are_taken_apart() {
        let hash = "ab".repeat(32);
        let ca: Digest = hash.parse().unwrap();
        for (text, want) in [
            ("s3cret", (None, "", "s3cret")),
            ("K10-no-full-form", (None, "", "K10-no-full-form")),
            (&format!("K10{hash}::server:s3:cret"), (Some(ca), "server", "s3:cret")),
            (&format!("K10{hash}::abcdef.0123"), (Some(ca), "", "abcdef.0123")),
        ] {
            let token = Token::parse(text).unwrap();
            assert_eq!((token.ca, token.user, token.password), want);
            assert!(!format!("{token:?}").contains("cret"));
        }
    }

    #[test]
    fn each_broken_rule_is_told_without_the_token() {
        for (text, want) in [
            ("", "that is empty or holds white space"),
            ("a b", "that is empty or holds white space"),
            ("K10abc::server:s3cret", "whose part between K10 and :: is no SHA-256"),
            (&format!("K10{}::server:", "ab".repeat(32)), "without a password"),
        ] {
            assert_eq!(Token::parse(text).unwrap_err(), want);
        }
    }
}
