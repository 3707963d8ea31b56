//! Our own record of what is what, in the tags of templates and VMs. Proxmox hands a template's tags
//! to its clones, so every node's VM says which image it came from, also where the storage does not
//! know its parent (LVM-thin).

use std::collections::BTreeSet;

use node::image_id::ImageId;
use node::values::Hostname;

/// On everything of ours.
pub const OURS: &str = "node-image";
/// On a template whose image proved bad: it is never used again, nor pushed again.
pub const QUARANTINED: &str = "quarantined";

const IMAGE: &str = "img-";
const CLUSTER: &str = "cluster-";
const PROFILE: &str = "profile-";
const K3S: &str = "k3s-";
const NODE: &str = "node-";

/// The tags of an image's template.
pub fn of_template(cluster: &Hostname, image: &ImageId, k3s: &str) -> BTreeSet<String> {
    [
        OURS.to_owned(),
        format!("{CLUSTER}{cluster}"),
        format!("{PROFILE}{}", image.profile()),
        format!("{IMAGE}{image}"),
        format!("{K3S}{}", word(k3s)),
    ]
    .into()
}

/// Tags as Proxmox takes them.
pub fn text(tags: &BTreeSet<String>) -> String {
    tags.iter().cloned().collect::<Vec<_>>().join(";")
}

/// The image that something was made of.
pub fn image(tags: &BTreeSet<String>) -> Option<ImageId> {
    tags.iter().find_map(|tag| tag.strip_prefix(IMAGE)?.parse().ok())
}

/// The version of K3s in it.
pub fn k3s(tags: &BTreeSet<String>) -> Option<&str> {
    tags.iter().find_map(|tag| tag.strip_prefix(K3S))
}

/// Whether it is of ours, and of this cluster.
pub fn is_of(tags: &BTreeSet<String>, cluster: &Hostname) -> bool {
    tags.contains(OURS) && tags.contains(&format!("{CLUSTER}{cluster}"))
}

/// The tag that says whose VM it is: names are late in the list of the whole cluster, tags are not.
pub fn of_node(node: &Hostname) -> String {
    format!("{NODE}{node}")
}

/// The node that a tag names; [`OURS`] starts alike and is none.
pub fn node_of(tag: &str) -> Option<&str> {
    tag.strip_prefix(NODE).filter(|_| tag != OURS)
}

/// A text in the characters of a tag: `[a-z0-9_.+-]`.
fn word(text: &str) -> String {
    let lower = text.chars().map(|c| c.to_ascii_lowercase());
    lower.map(|c| if c.is_ascii_alphanumeric() || "_.+-".contains(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_have_the_characters_of_tags_and_tell_what_they_were_made_of() {
        let (cluster, id): (Hostname, ImageId) =
            ("home".parse().unwrap(), "worker-3f9c2a71b0de-standin".parse().unwrap());
        let tags = of_template(&cluster, &id, "v1.36.4+k3s1");
        assert_eq!(
            text(&tags),
            "cluster-home;img-worker-3f9c2a71b0de-standin;k3s-v1.36.4+k3s1;node-image;profile-worker"
        );
        assert_eq!((image(&tags), k3s(&tags)), (Some(id), Some("v1.36.4+k3s1")));
        assert!(is_of(&tags, &cluster) && !is_of(&tags, &"work".parse().unwrap()));
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.+-".contains(c);
        assert!(tags.iter().all(|tag| tag.chars().all(allowed)));
        assert_eq!(word("A b:c"), "a-b-c");
    }
}
