//! The project's own table of the calls it makes (`calls.toml`) and what Proxmox checks of each:
//! route, privileges, parameters.

mod check;
mod dsl;
mod formats;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use serde::Deserialize;

pub use check::{Args, Errors, Raw, Value};
pub use dsl::{Kind, Param};
pub(crate) use formats::split_list;

const SOURCE: &str = include_str!("calls.toml");

/// The table, read once; a broken table is a broken build, shown by the first test that uses it.
pub static TABLE: LazyLock<Table> = LazyLock::new(|| match Table::parse(SOURCE) {
    Ok(table) => table,
    Err(error) => panic!("calls.toml: {error:#}"),
});

/// All calls and the sets of keys their strings may hold.
#[derive(Debug)]
pub struct Table {
    /// In the order of the file.
    pub calls: Vec<Call>,
    pub(crate) sets: BTreeMap<String, Vec<Param>>,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    /// `GET /nodes/{node}/status`.
    pub on: String,
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: String,
    /// Parts of the path; a part in braces is a parameter, a last `{volume}` takes the rest.
    pub path: Vec<String>,
    /// All must hold.
    pub needs: Vec<Need>,
    /// Whether the node of the path answers.
    pub proxied: bool,
    /// Whether the privileged daemon answers.
    pub worker: bool,
    /// Parameters, those of the path included.
    pub params: Vec<Param>,
}

/// Any of the privileges on any of the paths.
#[derive(Debug, PartialEq, Eq)]
pub struct Need {
    /// Alternatives.
    pub privileges: Vec<String>,
    /// ACL paths with `{parameter}`s.
    pub paths: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    sets: BTreeMap<String, Vec<String>>,
    call: Vec<RawCall>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCall {
    on: String,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    node: String,
    #[serde(default)]
    worker: bool,
    takes: Vec<String>,
}

impl Table {
    fn parse(source: &str) -> Result<Self> {
        let raw: RawTable = toml::from_str(source)?;
        let sets = raw
            .sets
            .keys()
            .map(|name| {
                Ok((name.clone(), dsl::expand(&raw.sets, &raw.sets[name]).context(name.clone())?))
            })
            .collect::<Result<_>>()?;
        let calls =
            raw.call.into_iter().map(|call| Call::parse(&raw.sets, call)).collect::<Result<_>>()?;
        Ok(Self { calls, sets })
    }

    /// The call of a method and a decoded path, with the path's parameters.
    pub fn route(&self, method: &str, path: &str) -> Option<(&Call, BTreeMap<String, String>)> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        self.calls
            .iter()
            .filter(|call| call.method == method)
            .find_map(|call| Some((call, call.fits(&parts)?)))
    }
}

impl Call {
    fn parse(sets: &BTreeMap<String, Vec<String>>, raw: RawCall) -> Result<Self> {
        let (method, path) = raw.on.split_once(' ').context("no space in `on`")?;
        let path = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Ok(Self {
            method: method.to_owned(),
            path,
            needs: raw.needs.iter().map(|need| Need::parse(need)).collect::<Result<_>>()?,
            proxied: raw.node == "proxied",
            worker: raw.worker,
            params: dsl::expand(sets, &raw.takes).with_context(|| raw.on.clone())?,
            on: raw.on,
        })
    }

    fn fits(&self, parts: &[&str]) -> Option<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        for (index, want) in self.path.iter().enumerate() {
            let got = parts.get(index)?;
            match want.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                // A volume's name holds slashes.
                Some("volume") => {
                    found.insert("volume".to_owned(), parts[index..].join("/"));
                    return Some(found);
                }
                Some(name) => {
                    found.insert(name.to_owned(), (*got).to_owned());
                }
                None if want == got => {}
                None => return None,
            }
        }
        (parts.len() == self.path.len()).then_some(found)
    }
}

impl Need {
    fn parse(text: &str) -> Result<Self> {
        let (privileges, paths) = text.split_once(" @ ").context("a need has no ` @ `")?;
        Ok(Self {
            privileges: privileges.split('|').map(str::to_owned).collect(),
            paths: paths.split(" or ").map(str::to_owned).collect(),
        })
    }
}
