//! Uploads that become volumes, and volumes that go.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::work::{Done, Import, failed};
use super::{Volume, World};
use crate::fault::Effect;

impl World {
    pub(super) fn import(
        &mut self,
        import: &Import,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        log.push(format!("starting file import from: {}", import.upload));
        let Some(upload) = self.uploads.remove(&import.upload) else {
            return Err(format!("failed to stat '{}'", import.upload));
        };
        let result = self.import_file(import, &upload, fault, log);
        if result.is_err() {
            drop(fs_err::remove_file(&upload.file));
        }
        result
    }

    fn import_file(
        &mut self,
        import: &Import,
        upload: &super::Upload,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        failed(fault)?;
        if let Some((algorithm, want)) = &import.checksum {
            let got = if fault == Some(&Effect::Corrupt) {
                "0".repeat(64)
            } else {
                checksum(algorithm, &upload.file)?
            };
            if !got.eq_ignore_ascii_case(want) {
                log.push("calculating checksum...".to_owned());
                return Err(format!("checksum mismatch: got '{got}' != expect '{want}'"));
            }
            log.push("calculating checksum...OK, checksum verified".to_owned());
        }
        let format = import.name.rsplit('.').next().unwrap_or_default().to_owned();
        let size = if import.content == "import" {
            virtual_size(&format, upload, &import.upload)?
        } else {
            upload.size
        };
        let unix = self.clock.unix();
        let file = self.folder.join(&import.storage).join(&import.content).join(&import.name);
        let Some(storage) = self.storages.get_mut(&import.storage) else {
            return Err(format!("storage '{}' does not exist", import.storage));
        };
        let full = fault == Some(&Effect::StorageFull) || storage.avail() < upload.size;
        if full {
            return Err("cp: error writing: No space left on device".to_owned());
        }
        log.push(format!("file size is: {}", upload.size));
        place(&upload.file, &file).map_err(|error| format!("{error:#}"))?;
        let volume = Volume {
            content: import.content.clone(),
            format: match import.content.as_str() {
                "iso" => "iso".to_owned(),
                "vztmpl" => format!("t{format}"),
                _ => format,
            },
            size,
            used: upload.size,
            vmid: None,
            parent: None,
            file: Some(file),
            ctime: unix,
        };
        storage.volumes.insert(format!("{}/{}", import.content, import.name), volume);
        log.push("finished file import successfully".to_owned());
        Ok(())
    }

    pub(super) fn remove_volume(
        &mut self,
        storage: &str,
        name: &str,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        failed(fault)?;
        let Some(content) = self.storages.get_mut(storage) else {
            return Err(format!("storage '{storage}' does not exist"));
        };
        if content.kind.keeps_bases() && content.clones_of(name) > 0 {
            return Err(format!("base volume '{storage}:{name}' is still in use by linked cloned"));
        }
        match content.volumes.remove(name) {
            Some(volume) if ["iso", "import", "vztmpl"].contains(&volume.content.as_str()) => {
                drop(volume.file.map(fs_err::remove_file));
            }
            Some(_) => {}
            None => log.push(format!("disk image '{name}' does not exist")),
        }
        log.push(format!("Removed volume '{storage}:{name}'"));
        Ok(())
    }
}

fn checksum(algorithm: &str, file: &std::path::Path) -> Result<String, String> {
    fn run<D: Digest>(file: &std::path::Path) -> std::io::Result<Vec<u8>> {
        let (mut hash, mut file) = (D::new(), fs_err::File::open(file)?);
        let mut chunk = vec![0; 256 << 10];
        loop {
            match std::io::Read::read(&mut file, &mut chunk)? {
                0 => return Ok(hash.finalize().to_vec()),
                count => hash.update(&chunk[..count]),
            }
        }
    }
    let bytes = match algorithm {
        "sha224" => run::<Sha224>(file),
        "sha256" => run::<Sha256>(file),
        "sha384" => run::<Sha384>(file),
        "sha512" => run::<Sha512>(file),
        other => {
            return Err(format!(
                "the double does not know the checksum {other}; the project sends sha256"
            ));
        }
    };
    Ok(super::hex(&bytes.map_err(|error| error.to_string())?))
}

/// The size that a guest sees of an image, from its head.
fn virtual_size(format: &str, upload: &super::Upload, name: &str) -> Result<u64, String> {
    if format != "qcow2" {
        return Ok(upload.size);
    }
    let mut head = [0u8; 32];
    let read = fs_err::File::open(&upload.file)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    if read.is_err() || &head[..4] != b"QFI\xfb" {
        return Err(format!("qemu-img: Could not open '{name}': Image is not in qcow2 format"));
    }
    let number =
        |at: usize| head[at..at + 8].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    if number(8) != 0 {
        return Err(format!("backing file not allowed for untrusted image '{name}'!"));
    }
    Ok(number(24))
}

fn place(from: &std::path::Path, to: &std::path::Path) -> anyhow::Result<()> {
    if let Some(folder) = to.parent() {
        fs_err::create_dir_all(folder)?;
    }
    Ok(fs_err::rename(from, to)?)
}
