//! The folders below `cluster/`: which namespaces and releases there are, and their files, rendered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fs_err as fs;
use node::values::Hostname;
use serde_json::Value;

use super::raw::RawRelease;
use super::{Home, objects};
use crate::config::{Document, Problem, Problems};
use crate::image::facts::Facts;

/// Ending of files that are rendered.
const TEMPLATE: &str = ".tera";
/// Folders of `cluster/` that are no namespace.
const OTHERS: [&str; 2] = ["charts", "tests"];
/// Namespaces that every cluster has: they need no file, and may have one.
const BUILT_IN: [&str; 2] = ["default", "kube-system"];
/// Helm's own limit: the name goes into that of a Secret, with a prefix.
const NAME_MAX: usize = 53;
/// The file of a namespace's own objects.
pub const NAMESPACE: &str = "namespace.yaml";
const VALUES: &str = "values-homelab.yaml";
const RELEASE: &str = "release.toml";
const MANIFESTS: &str = "manifests";

/// `cluster/`, open.
#[derive(Debug)]
pub struct Folder<'a> {
    root: &'a Path,
    context: tera::Context,
    /// Namespace folders by name.
    namespaces: Vec<String>,
}

/// A release's folder with its files.
#[derive(Debug)]
pub struct Found {
    /// The folder's name.
    pub name: String,
    /// The folder's path below the project, for messages.
    pub path: String,
    /// The namespace's name.
    pub namespace: Hostname,
    /// `release.toml`, if it can be read.
    pub file: Option<(Document, RawRelease)>,
    /// The values, rendered.
    pub values: Option<String>,
    /// Objects by the name of their file.
    pub manifests: BTreeMap<String, Vec<Value>>,
}

impl<'a> Folder<'a> {
    /// Lists the namespaces below `root`; `None` when `cluster/` cannot be read.
    pub fn open(
        root: &'a Path,
        facts: &Facts,
        home: &Home,
        problems: &mut Problems,
    ) -> Option<Self> {
        let context = match tera::Context::from_serialize(facts) {
            Ok(mut context) => {
                context.insert("bundle", home);
                context
            }
            Err(error) => {
                problems.push(Problem::of_file("cluster", format!("cannot be rendered: {error}")));
                return None;
            }
        };
        let all = list(root, "cluster", problems);
        let namespaces = all
            .into_iter()
            .filter(|(name, is_folder)| *is_folder && !OTHERS.contains(&name.as_str()));
        let namespaces = namespaces.map(|(name, _)| name).collect();
        Some(Self { root, context, namespaces })
    }

    /// Every release's folder.
    pub fn releases(&self, problems: &mut Problems) -> Vec<Found> {
        let mut found = Vec::new();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for namespace in &self.namespaces {
            let above = format!("cluster/{namespace}");
            let Some(name) = hostname(&above, namespace, 63, problems) else { continue };
            for (release, is_folder) in list(self.root, &above, problems) {
                let path = format!("{above}/{release}");
                if !is_folder {
                    self.expect_of_namespace(&path, &release, problems);
                    continue;
                }
                hostname(&path, &release, NAME_MAX, problems);
                if let Some(other) = seen.insert(release.clone(), path.clone()) {
                    let rule = format!("is a second release of that name; {other} is the first");
                    problems.push(Problem::of_file(&path, rule));
                }
                found.push(self.release(release, path, name.clone(), problems));
            }
        }
        found
    }

    #[expect(clippy::unused_self, reason = "one of the walk's steps")]
    fn expect_of_namespace(&self, path: &str, file: &str, problems: &mut Problems) {
        let known = [NAMESPACE.to_owned(), format!("{NAMESPACE}{TEMPLATE}")];
        if !known.contains(&file.to_owned()) && !is_note(file) {
            let rule = "is no file the bundle knows";
            let hint = format!("a namespace has `{NAMESPACE}` and one folder per release");
            problems.push(Problem::of_file(path, rule).hint(hint));
        }
    }

    fn release(
        &self,
        name: String,
        path: String,
        namespace: Hostname,
        problems: &mut Problems,
    ) -> Found {
        let known = [
            RELEASE.to_owned(),
            VALUES.to_owned(),
            format!("{VALUES}{TEMPLATE}"),
            MANIFESTS.to_owned(),
            "tests".to_owned(),
        ];
        for (file, _) in list(self.root, &path, problems) {
            if !known.contains(&file) && !is_note(&file) {
                let hint = format!("a release has {RELEASE}, {VALUES} and {MANIFESTS}/");
                let problem =
                    Problem::of_file(format!("{path}/{file}"), "is no file the bundle knows");
                problems.push(problem.hint(hint));
            }
        }
        let file = Document::read(self.root, &format!("{path}/{RELEASE}"), problems);
        let values = self.text(&format!("{path}/{VALUES}"), problems);
        if let Some((shown, text)) = &values {
            objects::check_yaml(shown, text, problems);
        }
        let values = values.map(|(_, text)| text);
        let manifests = self.manifests(&format!("{path}/{MANIFESTS}"), problems);
        Found { name, path, namespace, file, values, manifests }
    }

    fn manifests(&self, folder: &str, problems: &mut Problems) -> BTreeMap<String, Vec<Value>> {
        let mut all = BTreeMap::new();
        if !self.root.join(folder).is_dir() {
            return all;
        }
        let mut stems = BTreeSet::new();
        for (file, _) in list(self.root, folder, problems) {
            let plain = file.strip_suffix(TEMPLATE).unwrap_or(&file);
            match plain.strip_suffix(".yaml") {
                Some(stem) => drop(stems.insert(stem.to_owned())),
                None if is_note(&file) => {}
                None => {
                    let path = format!("{folder}/{file}");
                    problems.push(Problem::of_file(path, "must end in `.yaml` or `.yaml.tera`"));
                }
            }
        }
        for stem in stems {
            if let Some((shown, text)) = self.text(&format!("{folder}/{stem}.yaml"), problems) {
                all.insert(stem, objects::parse(&shown, &text, problems));
            }
        }
        all
    }

    /// Objects of every namespace that has a file.
    pub fn namespaces(&self, problems: &mut Problems) -> BTreeMap<Hostname, Vec<Value>> {
        let mut all = BTreeMap::new();
        for namespace in &self.namespaces {
            let path = format!("cluster/{namespace}/{NAMESPACE}");
            let Ok(name) = namespace.parse::<Hostname>() else { continue };
            let Some((shown, text)) = self.text(&path, problems) else {
                if !BUILT_IN.contains(&namespace.as_str()) {
                    let hint = "it holds the Namespace object with its Pod Security labels";
                    problems.push(Problem::of_file(&path, "is missing").hint(hint.to_owned()));
                }
                continue;
            };
            let objects = objects::parse(&shown, &text, problems);
            let own = |o: &Value| o["kind"] == "Namespace" && o["metadata"]["name"] == **namespace;
            if !objects.iter().any(own) {
                let rule = format!("must hold a Namespace called `{namespace}`");
                problems.push(Problem::of_file(&shown, rule));
            }
            all.insert(name, objects);
        }
        all
    }

    /// A file's text and its name for messages: as it lies, or rendered from the one that ends in
    /// `.tera`. `None` when there is neither.
    fn text(&self, path: &str, problems: &mut Problems) -> Option<(String, String)> {
        let template = format!("{path}{TEMPLATE}");
        let is_template = self.root.join(&template).exists();
        if !is_template && !self.root.join(path).exists() {
            return None;
        }
        if is_template && self.root.join(path).exists() {
            problems.push(Problem::of_file(path, "stands there twice, also as `.tera`"));
        }
        let shown = if is_template { template } else { path.to_owned() };
        let text = match fs::read_to_string(self.root.join(&shown)) {
            Ok(text) => text,
            Err(error) => {
                problems.push(Problem::of_file(shown, format!("cannot be read: {error}")));
                return None;
            }
        };
        if !is_template {
            return Some((shown, text));
        }
        match tera::Tera::one_off(&text, &self.context, false) {
            Ok(text) => Some((shown, text)),
            Err(error) => {
                let text = format!("{:#}", anyhow::Error::new(error)).replace('\n', " | ");
                problems.push(Problem::of_file(shown, format!("cannot be rendered: {text}")));
                None
            }
        }
    }
}

/// Files that are for people.
fn is_note(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|ending| ending == "md")
}

/// Names in a folder, sorted, and whether each is a folder; hidden ones are left out.
fn list(root: &Path, folder: &str, problems: &mut Problems) -> Vec<(String, bool)> {
    let entries = match fs::read_dir(root.join(folder)) {
        Ok(entries) => entries,
        Err(error) => {
            problems.push(Problem::of_file(folder, format!("cannot be read: {error}")));
            return Vec::new();
        }
    };
    let named = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name, path.is_dir())
    };
    let mut all: Vec<_> = entries.flatten().map(|entry| named(entry.path())).collect();
    all.retain(|(name, _)| !name.starts_with('.'));
    all.sort();
    all
}

fn hostname(path: &str, name: &str, longest: usize, problems: &mut Problems) -> Option<Hostname> {
    let parsed = name.parse::<Hostname>().map_err(|error| error.rule);
    let parsed = parsed.and_then(|parsed| {
        let fits = name.len() <= longest;
        if fits { Ok(parsed) } else { Err(format!("must be at most {longest} characters")) }
    });
    parsed
        .map_err(|rule| problems.push(Problem::of_file(path, format!("has a name that {rule}"))))
        .ok()
}
