//! What the cache holds, which images use it, and the removal of what none of the last does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use nix::fcntl::FlockArg;
use node::files::write_atomic;
use node::values::Digest;
use serde::{Deserialize, Serialize};

use super::{Store, temp};

/// What one build used: the content of `images/<image-id>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Use {
    image_id: String,
    when: jiff::Timestamp,
    objects: Vec<Digest>,
    stages: Vec<(String, Digest)>,
}

/// What kind of thing an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The output of the stage of this name.
    Stage(String),
    /// A downloaded or added file.
    Object,
    /// A download that did not finish, or another builder's work in progress.
    Temp,
}

/// One thing in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its digest or key in hex; of a [`Kind::Temp`], its file name.
    pub name: String,
    /// What people call it, where the caller of [`Store::list`] knows and fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Bytes on disk, as the sum of file lengths.
    pub size: u64,
    /// The image-ids that use it, newest build first.
    pub images: Vec<String>,
    /// Where it is.
    #[serde(skip)]
    pub path: PathBuf,
}

/// Everything in the cache.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// Sorted by kind, then by size, largest first.
    pub entries: Vec<Entry>,
    /// Image-ids with a record, newest build first.
    pub images: Vec<String>,
}

/// What [`Store::gc`] removed, or would remove.
#[derive(Debug, Serialize)]
pub struct GcReport {
    /// The removed entries.
    pub removed: Vec<Entry>,
    /// Image-ids whose record went.
    pub forgotten: Vec<String>,
    /// Bytes of the removed entries.
    pub freed: u64,
    /// Bytes of what stays.
    pub kept: u64,
}

impl Store {
    /// Notes what the build of `image_id` used. An image built again replaces its older note.
    pub fn record_use(
        &self,
        image_id: &str,
        objects: &[Digest],
        stages: &[(String, Digest)],
    ) -> Result<()> {
        let when = jiff::Timestamp::now();
        let (objects, stages) = (objects.to_vec(), stages.to_vec());
        let note = Use { image_id: image_id.to_owned(), when, objects, stages };
        let path = self.root().join("images").join(format!("{image_id}.json"));
        write_atomic(&path, &serde_json::to_vec(&note)?, 0o644)
    }

    /// Everything in the cache, and the images that use it.
    pub fn list(&self) -> Result<Listing> {
        let uses = self.uses()?;
        let mut entries = self.entries()?;
        let by_path = users(self, &uses);
        for entry in &mut entries {
            entry.images = by_path.get(&entry.path).cloned().unwrap_or_default();
        }
        entries.sort_by(|a, b| a.kind.cmp(&b.kind).then(b.size.cmp(&a.size)));
        Ok(Listing { entries, images: uses.into_iter().map(|u| u.image_id).collect() })
    }

    /// Removes what neither the `keep_images` newest builds nor `keep` (the digests of the lock)
    /// use. Refused while another builder runs: it may be about to use anything.
    pub fn gc(
        &self,
        keep_images: usize,
        keep: &BTreeSet<Digest>,
        dry_run: bool,
    ) -> Result<GcReport> {
        let _alone = Alone::new(self)?;
        let uses = self.uses()?;
        let (kept_uses, old) = uses.split_at(keep_images.min(uses.len()));
        let mut wanted: BTreeSet<PathBuf> = users(self, kept_uses).into_keys().collect();
        wanted.extend(keep.iter().map(|digest| self.object(digest)));
        let listing = self.list()?;
        let (kept, removed): (Vec<_>, Vec<_>) =
            listing.entries.into_iter().partition(|e| wanted.contains(&e.path));
        if !dry_run {
            self.remove(&removed, old)?;
        }
        let bytes = |entries: &[Entry]| entries.iter().map(|e| e.size).sum();
        let forgotten = old.iter().map(|u| u.image_id.clone()).collect();
        Ok(GcReport { freed: bytes(&removed), kept: bytes(&kept), removed, forgotten })
    }

    /// Records go first: a record never names what is gone.
    fn remove(&self, entries: &[Entry], old: &[Use]) -> Result<()> {
        for note in old {
            fs::remove_file(self.root().join("images").join(format!("{}.json", note.image_id)))?;
        }
        for entry in entries {
            self.remove_entry(entry)?;
        }
        // No builder runs but us, so no lock is held.
        for lock in fs::read_dir(self.root().join("locks"))? {
            fs::remove_file(lock?.path())?;
        }
        Ok(())
    }

    /// A stage is first renamed away, so that a kill never leaves half of it under its key.
    fn remove_entry(&self, entry: &Entry) -> Result<()> {
        if !matches!(entry.kind, Kind::Stage(_)) {
            return temp::remove_tree(&entry.path);
        }
        let grave = self.temp_dir("gc")?;
        let buried = grave.path().join("stage");
        fs::rename(&entry.path, &buried)?;
        temp::remove_tree(&buried)
    }

    /// The records of past builds, newest first.
    fn uses(&self) -> Result<Vec<Use>> {
        let mut uses = Vec::new();
        for entry in fs::read_dir(self.root().join("images"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue; // a temp file of `write_atomic`, killed before its rename
            }
            let text = fs::read(&path)?;
            let note: Use = serde_json::from_slice(&text)
                .with_context(|| format!("failed to read {}; remove it", path.display()))?;
            uses.push(note);
        }
        uses.sort_by(|a, b| b.when.cmp(&a.when).then(a.image_id.cmp(&b.image_id)));
        Ok(uses)
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for folder in children(&self.root().join("sha256"))? {
            collect(&folder, &Kind::Object, &mut entries)?;
        }
        for folder in children(&self.root().join("stages"))? {
            collect(&folder, &Kind::Stage(file_name(&folder)), &mut entries)?;
        }
        collect(&self.root().join("tmp"), &Kind::Temp, &mut entries)?;
        Ok(entries)
    }
}

/// The sole use of the cache; on drop it is shared again.
struct Alone<'a>(&'a Store);

impl<'a> Alone<'a> {
    fn new(store: &'a Store) -> Result<Self> {
        if store.in_use.relock(FlockArg::LockExclusiveNonblock).is_err() {
            // A failed upgrade may have dropped the shared lock.
            store.in_use.relock(FlockArg::LockShared)?;
            bail!("another builder is using the cache {}; try again later", store.root().display());
        }
        Ok(Self(store))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // From exclusive to shared nobody can refuse us.
        let _ = self.0.in_use.relock(FlockArg::LockShared);
    }
}

/// Path in the cache → image-ids that use it.
fn users(store: &Store, uses: &[Use]) -> BTreeMap<PathBuf, Vec<String>> {
    let mut by_path: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for note in uses {
        let objects = note.objects.iter().map(|digest| store.object(digest));
        let stages = note.stages.iter().map(|(name, key)| store.stage(name, key));
        for path in objects.chain(stages) {
            by_path.entry(path).or_default().push(note.image_id.clone());
        }
    }
    by_path
}

fn collect(folder: &Path, kind: &Kind, entries: &mut Vec<Entry>) -> Result<()> {
    for path in children(folder)? {
        let name = file_name(&path);
        if name != ".lock" {
            let size = tree_size(&path)?;
            let (kind, images) = (kind.clone(), Vec::new());
            entries.push(Entry { kind, name, title: None, size, images, path });
        }
    }
    Ok(())
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn tree_size(path: &Path) -> Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    children(path)?.iter().map(|child| tree_size(child)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object and a stage for each name, recorded as one build each, in this order.
    fn filled(root: &Path, names: &[&str]) -> Store {
        let store = Store::open(Some(root)).unwrap();
        for name in names {
            let file = root.join("f");
            fs::write(&file, name).unwrap();
            let (digest, _) = store.add_file(&file).unwrap();
            let temp = store.temp_dir(name).unwrap();
            fs::write(temp.path().join("out"), name).unwrap();
            store.commit_stage("base", &digest, temp, &[]).unwrap();
            store.record_use(name, &[digest], &[("base".into(), digest)]).unwrap();
        }
        store
    }

    #[test]
    fn gc_keeps_the_newest_images_and_what_the_lock_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), &["old", "mid", "new"]);
        let (old, mid, new) = (Digest::of("old"), Digest::of("mid"), Digest::of("new"));
        let keep = BTreeSet::from([old]);
        let plan = store.gc(1, &keep, true).unwrap();
        assert!(store.has(&mid), "a dry run removes nothing");
        let done = store.gc(1, &keep, false).unwrap();
        assert_eq!(plan.freed, done.freed);
        assert_eq!(done.forgotten, ["mid", "old"]);
        assert!(store.has(&new) && store.has(&old) && !store.has(&mid));
        assert!(store.stage("base", &new).is_dir() && !store.stage("base", &old).exists());
        assert_eq!(store.list().unwrap().images, ["new"]);
    }

    #[test]
    fn gc_is_refused_while_another_builder_runs_and_goes_on_after() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), &["a"]);
        let other = Store::open(Some(dir.path())).unwrap();
        let text = store.gc(0, &BTreeSet::new(), false).unwrap_err().to_string();
        assert!(text.starts_with("another builder is using the cache"), "{text}");
        assert!(store.has(&Digest::of("a")));
        drop(other);
        store.gc(0, &BTreeSet::new(), false).unwrap();
        assert!(!store.has(&Digest::of("a")));
    }

    #[test]
    fn a_listing_names_the_users() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), &["a", "b"]);
        store.record_use("c", &[Digest::of("a")], &[]).unwrap();
        let listing = store.list().unwrap();
        let name = Digest::of("a").to_string();
        let entry =
            listing.entries.iter().find(|e| e.kind == Kind::Object && e.name == name).unwrap();
        assert_eq!((entry.size, entry.images.clone()), (1, vec!["c".into(), "a".into()]));
    }
}
