//! Several tars as one stream: each is copied up to its end mark, so that what comes later lies
//! over what came before, as `mke2fs -d -` reads it.

use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Bytes of a tar block; headers are one block, contents are padded to whole blocks.
pub const BLOCK: usize = 512;

/// Copies the entries of the tar at `path` to `out`, without its end mark.
///
/// # Errors
/// The file cannot be read, ends early, or is no tar; `out` cannot be written.
pub fn append(path: &Path, out: &mut impl Write) -> Result<()> {
    let mut tar = io::BufReader::with_capacity(1 << 20, fs_err::File::open(path)?);
    let mut header = [0; BLOCK];
    loop {
        tar.read_exact(&mut header)
            .with_context(|| format!("{} ends before its end mark", path.display()))?;
        if header.iter().all(|b| *b == 0) {
            return Ok(());
        }
        let size = entry_size(&header).with_context(|| format!("{} is damaged", path.display()))?;
        out.write_all(&header).context("failed to pass on a tar")?;
        let padded = size.next_multiple_of(BLOCK as u64);
        let copied =
            io::copy(&mut (&mut tar).take(padded), out).context("failed to pass on a tar")?;
        if copied != padded {
            bail!("{} ends inside an entry", path.display());
        }
    }
}

/// The end mark: two zero blocks.
///
/// # Errors
/// `out` cannot be written.
pub fn finish(out: &mut impl Write) -> Result<()> {
    out.write_all(&[0; 2 * BLOCK]).context("failed to end a tar stream")
}

/// Content length of a header: octal text, or GNU's base-256 for more than 8 GiB.
fn entry_size(header: &[u8; BLOCK]) -> Result<u64> {
    let field = &header[124..136];
    if &header[257..262] != b"ustar" {
        bail!("a header lacks the ustar mark");
    }
    if field[0] & 0x80 != 0 {
        return Ok(field[4..].iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let text = String::from_utf8_lossy(field);
    let digits = text.trim_matches(['\0', ' ']);
    u64::from_str_radix(digits, 8).with_context(|| format!("size `{digits}` is not octal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tar = tar::Builder::new(file.as_file());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.finish().unwrap();
        drop(tar);
        file
    }

    #[test]
    fn two_tars_read_as_one() {
        let (a, b) = (tar_of(&[("a", b"1"), ("b", &[7; 600])]), tar_of(&[("a", b"2")]));
        let mut stream = Vec::new();
        append(a.path(), &mut stream).unwrap();
        append(b.path(), &mut stream).unwrap();
        finish(&mut stream).unwrap();
        let mut tar = tar::Archive::new(&stream[..]);
        let names: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["a", "b", "a"]);
    }

    #[test]
    fn a_cut_tar_is_named() {
        let whole = fs_err::read(tar_of(&[("a", &[1; 2000])]).path()).unwrap();
        let cut = tempfile::NamedTempFile::new().unwrap();
        for end in [100, 512, 1000, 2560] {
            fs_err::write(cut.path(), &whole[..end]).unwrap();
            let text = append(cut.path(), &mut Vec::new()).unwrap_err().to_string();
            assert!(text.contains("ends"), "{end}: {text}");
        }
    }
}
