//! The text of a lock: equal locks give equal bytes, and one package is one line, so that a diff
//! reads well. That is why no general TOML writer is used.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Artifact, BaseSet, Lock, SCHEMA};

/// First lines of the file.
const HEADER: &str = "\
# Every input of the images: version, digest, size. Written by `builder lock`; commit it.
# `builder lock --update NAME` resolves one entry anew, `builder lock --update all` every base.
";

impl Lock {
    /// The file's text: equal locks give equal bytes.
    pub fn to_text(&self) -> Result<String> {
        let mut text = format!("{HEADER}schema = {SCHEMA}\n");
        for artifact in self.artifacts.values() {
            write_artifact(&mut text, artifact)?;
        }
        for base in self.bases.values() {
            write_base(&mut text, base)?;
        }
        Ok(text)
    }
}

fn quoted(text: &str) -> toml::Value {
    toml::Value::String(text.to_owned())
}

fn write_artifact(text: &mut String, a: &Artifact) -> Result<()> {
    let kind = toml::Value::try_from(a.kind)?;
    write!(text, "\n[[artifact]]\nname = {}\nkind = {kind}\n", quoted(&a.name))?;
    writeln!(text, "version = {}", quoted(&a.version))?;
    if let Some(url) = &a.url {
        writeln!(text, "url = {}", quoted(url))?;
    }
    writeln!(text, "sha256 = \"{}\"", a.sha256)?;
    if let Some(size) = a.size {
        writeln!(text, "size = {size}")?;
    }
    writeln!(text, "source = {}", quoted(&a.source))?;
    if a.standin {
        writeln!(text, "standin = true")?;
    }
    if a.left_out {
        writeln!(text, "left_out = true")?;
    }
    Ok(())
}

fn write_base(text: &mut String, base: &BaseSet) -> Result<()> {
    write!(text, "\n[[base]]\nname = {}\nrequest = \"{}\"\n", quoted(&base.name), base.request)?;
    writeln!(text, "packages = [")?;
    for p in &base.packages {
        let (name, arch, version) = (quoted(&p.name), quoted(&p.arch), quoted(&p.version));
        let (mirror, path) = (quoted(&p.mirror), quoted(&p.path));
        writeln!(
            text,
            "  {{ name = {name}, arch = {arch}, version = {version}, mirror = {mirror}, \
             path = {path}, size = {}, sha256 = \"{}\" }},",
            p.size, p.sha256
        )?;
    }
    writeln!(text, "]")?;
    Ok(())
}
