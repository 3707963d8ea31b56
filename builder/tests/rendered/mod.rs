//! Files of the overlay as `builder` renders them for a shipped profile.

use std::path::Path;

use builder::config::Project;
use builder::image::facts::{Facts, Identity};
use builder::image::overlay::{self, Trees};
use builder::image::tarball::{Content, Entry};
use node::config::NodeFact;

/// The file `path` of an image of `profile`, with facts that `change` may change first.
pub fn rendered(profile: &str, path: &str, change: impl FnOnce(&mut Facts)) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let project = Project::load(root).unwrap();
    let profile = project.profile(profile).unwrap();
    let image = project.image_of(profile).unwrap();
    let nodes = project.cluster.nodes.iter().map(|n| NodeFact {
        name: n.name.clone(),
        address: n.address,
        role: project.profiles[&n.profile].role,
    });
    let mut facts = Facts::new(image, profile, &project.cluster, nodes.collect());
    change(&mut facts);
    let identity = Identity {
        image_id: "x-0123456789ab".into(),
        image_version: "0123456789ab".into(),
        root_uuid: uuid::Uuid::nil(),
    };
    let role = std::iter::once(profile.role.as_str().to_owned());
    let trees: Vec<_> =
        image.tree.iter().cloned().chain(role).chain(profile.tree.iter().cloned()).collect();
    let trees = Trees::read(root, &trees).unwrap();
    let tarball = overlay::render(&trees, &facts, &identity, "").unwrap();
    match &tarball.entries()[path] {
        Entry::File(Content::Bytes(bytes), _) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{path} is {other:?}"),
    }
}
