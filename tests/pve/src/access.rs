//! Who may do what: tokens, ACLs, pools, and the cut of a separated token with its user.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::setup::{Setup, TokenSetup};

/// Privileges of one user or token on one path and all below it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acl {
    /// `/`, `/vms/100`, `/pool/k3s`, `/storage/local` …
    pub path: String,
    /// `user@realm` or `user@realm!token`.
    pub who: String,
    /// `VM.Audit` …
    pub privileges: BTreeSet<String>,
}

impl Acl {
    /// One entry.
    pub fn new(path: &str, who: &str, privileges: &[&str]) -> Self {
        let privileges = privileges.iter().map(|&name| name.to_owned()).collect();
        Self { path: path.to_owned(), who: who.to_owned(), privileges }
    }
}

/// An authenticated token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `user@realm`.
    pub user: String,
    /// `user@realm!name`.
    pub token: String,
    separated: bool,
}

impl Caller {
    /// The token's name alone.
    pub fn token_name(&self) -> &str {
        self.token.split_once('!').map_or("", |(_, name)| name)
    }
}

/// Tokens and rights.
#[derive(Debug)]
pub struct Access {
    tokens: Vec<TokenSetup>,
    /// All entries; tests may change them.
    pub acl: Vec<Acl>,
}

/// The members of each pool: VMs.
pub type Pools = BTreeMap<String, BTreeSet<u32>>;

impl Access {
    pub(crate) fn new(setup: &Setup) -> Self {
        Self { tokens: setup.tokens.clone(), acl: setup.acl.clone() }
    }

    /// The token of an `Authorization` header.
    ///
    /// # Errors
    /// Proxmox' reason for the 401.
    pub fn authenticate(&self, header: Option<&str>) -> Result<Caller, &'static str> {
        let rest = header.and_then(|text| text.strip_prefix("PVEAPIToken")).ok_or("No ticket")?;
        let rest = crate::form::percent_decode(rest.trim_start_matches([' ', '=']), false);
        let (id, secret) = rest.rsplit_once('=').ok_or("Authentication failed!")?;
        let good = |token: &&TokenSetup| token.id == id && token.secret == secret && !token.expired;
        let token = self.tokens.iter().find(good).ok_or("Authentication failed!")?;
        let user = id.split_once('!').map_or(id, |(user, _)| user).to_owned();
        Ok(Caller { user, token: id.to_owned(), separated: token.separated })
    }

    /// Whether the caller holds the privilege there.
    pub fn has(&self, caller: &Caller, path: &str, privilege: &str, pools: &Pools) -> bool {
        let user = self.one(&caller.user, path, privilege, pools);
        user && (!caller.separated || self.one(&caller.token, path, privilege, pools))
    }

    fn one(&self, who: &str, path: &str, privilege: &str, pools: &Pools) -> bool {
        // The user root@pam may all; a token of root only what is written for it.
        if who == "root@pam" || self.inherits(who, path, privilege) {
            return true;
        }
        let Some(vmid) = path.strip_prefix("/vms/").and_then(|id| id.parse().ok()) else {
            return false;
        };
        let with_vm = pools.iter().filter(|(_, members)| members.contains(&vmid));
        with_vm.into_iter().any(|(pool, _)| self.inherits(who, &format!("/pool/{pool}"), privilege))
    }

    /// The deepest entry at or above the path decides.
    fn inherits(&self, who: &str, path: &str, privilege: &str) -> bool {
        let above = |acl: &&Acl| {
            acl.path == "/" || path == acl.path || path.starts_with(&format!("{}/", acl.path))
        };
        let mine: Vec<&Acl> = self.acl.iter().filter(|acl| acl.who == who).filter(above).collect();
        let deepest = mine.iter().map(|acl| acl.path.len()).max();
        mine.iter().any(|acl| Some(acl.path.len()) == deepest && acl.privileges.contains(privilege))
    }

    /// What `GET /access/permissions` shows: each path with an entry, and the usual roots.
    pub fn permissions(&self, caller: &Caller, pools: &Pools) -> BTreeMap<String, Vec<String>> {
        const ROOTS: [&str; 7] =
            ["/", "/access", "/access/groups", "/nodes", "/pool", "/storage", "/vms"];
        let written =
            self.acl.iter().filter(|acl| acl.who == caller.user || acl.who == caller.token);
        let paths: BTreeSet<&str> = written.map(|acl| acl.path.as_str()).chain(ROOTS).collect();
        let all: BTreeSet<&String> = self.acl.iter().flat_map(|acl| &acl.privileges).collect();
        let held = |path: &str| -> Vec<String> {
            all.iter()
                .filter(|name| self.has(caller, path, name, pools))
                .map(|&name| name.clone())
                .collect()
        };
        let shown = paths.into_iter().map(|path| (path.to_owned(), held(path)));
        shown.filter(|(_, privileges)| !privileges.is_empty()).collect()
    }
}
