//! Helm out of its release archive: `linux-amd64/helm` in a gzipped tar.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use fs_err as fs;

/// Where the release archive has the program.
const PROGRAM: &str = "linux-amd64/helm";
/// No release of Helm is near this size: a guard against an archive that only unpacks for ever.
const LIMIT: u64 = 256 << 20;

/// Unpacks the program in the archive at `path` to `to`.
///
/// # Errors
/// The archive is damaged or cut, or has no such program.
pub fn unpack(path: &Path, to: &Path) -> Result<()> {
    let what = || format!("failed to read Helm's archive {}", path.display());
    let mut tar = tar::Archive::new(GzDecoder::new(fs::File::open(path)?));
    for entry in tar.entries().with_context(what)? {
        let mut entry = entry.with_context(what)?;
        if entry.path().with_context(what)?.as_ref() == Path::new(PROGRAM) {
            let size = entry.size();
            let fits = entry.header().entry_type().is_file() && (1..=LIMIT).contains(&size);
            ensure!(fits, "`{PROGRAM}` in {} is no program: {size} bytes", path.display());
            // Streamed: it is larger than half of the memory builder may take.
            std::io::copy(&mut entry, &mut fs::File::create(to)?).with_context(what)?;
            return Ok(());
        }
    }
    bail!("{} holds no `{PROGRAM}`; is it Helm's release for linux-amd64?", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive(name: &str) -> Vec<u8> {
        let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        tar.append_data(&mut header, name, &b"\x7fELF"[..]).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    }

    /// A release whose program is a link to another file.
    fn link() -> Vec<u8> {
        let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, PROGRAM, "../../etc/passwd").unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let to = tempfile::NamedTempFile::new().unwrap();
        unpack(file.path(), to.path())?;
        Ok(fs::read(to.path()).unwrap())
    }

    #[test]
    fn the_program_is_found_and_anything_else_refused() {
        assert_eq!(read(&archive(PROGRAM)).unwrap(), b"\x7fELF");
        assert!(read(&archive("darwin-arm64/helm")).unwrap_err().to_string().contains("holds no"));
        assert!(read(&link()).unwrap_err().to_string().contains("is no program: 0 bytes"));
        let whole = archive(PROGRAM);
        let text = read(&whole[..whole.len() / 2]).unwrap_err().to_string();
        assert!(text.contains("failed to read Helm's archive"), "{text}");
    }
}
