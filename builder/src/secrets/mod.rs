//! What only the operator may hold (D11a): the cluster's tokens and keys, and the values of the
//! bundle's Secrets. They stand in one file of the project, encrypted with age, and are opened by a
//! key that never lies in the project. No node holds that key.

pub mod apply;
pub mod edit;
pub mod escrow;
pub mod key;
pub mod needs;
pub mod vault;

pub use escrow::Escrow;
pub use vault::Vault;

/// Where the encrypted file lies in the project; it may be committed.
pub const FILE: &str = "cluster/secrets.age";

/// Letters and digits: what goes into a URL, a shell and a YAML scalar without quoting.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// `length` random characters of [`ALPHABET`].
///
/// # Errors
/// The kernel gives no randomness.
pub fn random_text(length: usize) -> anyhow::Result<String> {
    let mut source = fs_err::File::open("/dev/urandom")?;
    let mut text = String::with_capacity(length);
    let mut byte = [0];
    while text.len() < length {
        std::io::Read::read_exact(&mut source, &mut byte)?;
        // 248 is the largest multiple of 62 in a byte: what is above would favour some letters.
        if byte[0] < 248 {
            text.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_texts_have_their_length_and_differ() {
        let (a, b) = (random_text(40).unwrap(), random_text(40).unwrap());
        assert_eq!((a.len(), b.len()), (40, 40));
        assert_ne!(a, b);
        assert!(a.bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
