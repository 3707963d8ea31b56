//! The token's rights stand three times: in the preflight, in `docs/proxmox.md`, and in the double, whose
//! table of calls refuses whatever lacks one. Here they are held together.

use std::collections::{BTreeMap, BTreeSet};

use pve_double::{Pace, Setup, TOKEN};

use crate::home::Home;

type Rights = BTreeMap<String, BTreeSet<String>>;

/// What the double's token has, by path.
fn of_double() -> Rights {
    let acl = Setup::default().acl.into_iter().filter(|acl| acl.who == TOKEN);
    acl.map(|acl| (acl.path, acl.privileges.into_iter().collect())).collect()
}

/// What the commands of the document give, by path; its names of storages are other ones.
fn of_document() -> Rights {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs_err::read_to_string(root.join("docs/proxmox.md")).unwrap().replace("\\\n", "");
    let role = regex::Regex::new(r#"pveum role add (\w+) --privs "([^"]+)""#).unwrap();
    let roles: BTreeMap<_, BTreeSet<String>> = role
        .captures_iter(&text)
        .map(|c| (c[1].to_owned(), c[2].split_whitespace().map(str::to_owned).collect()))
        .collect();
    let acl = regex::Regex::new(r"pveum acl modify (\S+) --roles (\w+) \$who").unwrap();
    let path = |path: &str| path.replace("/storage/local-lvm", "/storage/disks");
    acl.captures_iter(&text).map(|c| (path(&c[1]), roles[&c[2]].clone())).collect()
}

#[test]
fn the_document_grants_what_the_doubles_token_has() {
    assert_eq!(of_document(), of_double());
}

/// Nothing of it is too much for the preflight, and nothing missing goes unseen.
#[test]
fn the_preflight_misses_every_single_one_of_them() {
    let all: Vec<_> = of_double()
        .into_iter()
        .flat_map(|(path, all)| all.into_iter().map(move |one| (path.clone(), one)))
        .collect();
    for (path, privilege) in &all {
        let mut setup = Setup { pace: Pace::Real(100), ..Setup::default() };
        for acl in setup.acl.iter_mut().filter(|acl| acl.path == *path) {
            acl.privileges.remove(privilege.as_str());
        }
        let said = Home::with(setup).run(&["preflight"]);
        assert_eq!(said.code, 1, "{privilege} on {path}: {}", said.out);
        let words = format!("{TOKEN} lacks {privilege} on {path}\n");
        assert!(said.out.contains(&words), "{privilege} on {path}: {}", said.out);
    }
    println!("{} privileges, each missed", all.len());
}
