//! Container images made here, without a registry: one layer, a configuration and an index in the
//! form that `docker save` writes and `ctr images import` reads.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use fs_err as fs;
use node::values::Digest;
use serde_json::{Value, json};

/// An image to be made.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its whole name, such as `docker.io/library/hello:1`.
    pub reference: String,
    layer: Layer,
    config: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Layer {
    /// A program of this host, at a path of the image.
    Programs(Vec<(PathBuf, String)>),
    /// A root file system, as mmdebstrap writes one.
    Tar(PathBuf),
}

impl Image {
    /// An image of nothing but static programs: the file here, its path there. The first is what
    /// the container runs.
    pub fn of_programs(reference: &str, programs: &[(&Path, &str)]) -> Self {
        let first = programs.first().map_or_else(String::new, |(_, to)| format!("/{to}"));
        let programs = programs.iter().map(|(from, to)| (from.to_path_buf(), (*to).to_owned()));
        Self {
            reference: reference.to_owned(),
            layer: Layer::Programs(programs.collect()),
            config: json!({"Entrypoint": [first], "Env": ["PATH=/"], "WorkingDir": "/"}),
        }
    }

    /// An image of a root file system, with docker's configuration of a container: `Entrypoint`,
    /// `Cmd`, `Env`, `User`, `WorkingDir`.
    pub fn of_tar(reference: &str, tar: &Path, config: Value) -> Self {
        Self { reference: reference.to_owned(), layer: Layer::Tar(tar.to_owned()), config }
    }

    /// Writes it as an archive.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        Self::write_all(std::slice::from_ref(self), archive)
    }

    /// Writes several as one archive. What they have in common is in it once.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub fn write_all(images: &[Self], archive: &Path) -> Result<()> {
        let mut out = tar::Builder::new(fs::File::create(archive)?);
        let mut layers: Vec<(&Layer, Digest)> = Vec::new();
        let mut index = Vec::new();
        for (number, image) in images.iter().enumerate() {
            if !layers.iter().any(|(layer, _)| *layer == &image.layer) {
                let content = image.layer.read()?;
                add(&mut out, &format!("layer{}.tar", layers.len()), 0o644, &content)?;
                layers.push((&image.layer, Digest::of(&content)));
            }
            let found = layers.iter().position(|(layer, _)| *layer == &image.layer);
            let layer = found.unwrap_or_default();
            let config = json!({"architecture": "amd64", "os": "linux", "config": image.config,
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layers[layer].1)]}});
            let name = format!("config{number}.json");
            add(&mut out, &name, 0o644, config.to_string().as_bytes())?;
            index.push(json!({"Config": name, "RepoTags": [image.reference],
                "Layers": [format!("layer{layer}.tar")]}));
        }
        add(&mut out, "manifest.json", 0o644, Value::from(index).to_string().as_bytes())?;
        out.into_inner()?;
        Ok(())
    }
}

impl Layer {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Programs(programs) => layer_of(programs),
            Self::Tar(path) => {
                let mut content = Vec::new();
                fs::File::open(path)?.read_to_end(&mut content)?;
                Ok(content)
            }
        }
    }
}

fn layer_of(programs: &[(PathBuf, String)]) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for (from, to) in programs {
        add(&mut layer, to, 0o755, &fs::read(from)?)?;
    }
    Ok(layer.into_inner()?)
}

fn add(
    to: &mut tar::Builder<impl std::io::Write>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    to.append_data(&mut header, path, content)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_layer_by_the_digest_of_what_is_in_it() {
        let place = tempfile::tempdir().unwrap();
        let (program, archive) = (place.path().join("p"), place.path().join("image.tar"));
        fs::write(&program, "x").unwrap();
        Image::of_programs("docker.io/library/p:1", &[(&program, "p")]).write(&archive).unwrap();
        let mut found = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(fs::File::open(archive).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.insert(entry.path().unwrap().display().to_string(), content);
        }
        let config: Value = serde_json::from_slice(&found["config0.json"]).unwrap();
        let digest = format!("sha256:{}", Digest::of(&found["layer0.tar"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], digest);
        assert_eq!(config["config"]["Entrypoint"][0], "/p");
        let index: Value = serde_json::from_slice(&found["manifest.json"]).unwrap();
        assert_eq!(index[0]["RepoTags"][0], "docker.io/library/p:1");
    }
}
