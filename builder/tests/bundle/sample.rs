//! A project with a small bundle of its own.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use builder::bundle::Bundle;
use builder::config::Project;
use builder::image::Plan;
use builder::image::plan::facts;
use builder::lock::Lock;
use fs_err as fs;
use tempfile::TempDir;

pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        if fs::symlink_metadata(&path).unwrap().is_symlink() {
            fs::os::unix::fs::symlink(fs::read_link(&path).unwrap(), to.join(name)).unwrap();
        } else if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(path, to.join(name)).unwrap();
        }
    }
}

/// A project with a small bundle: its own, so that the home's may change.
pub struct Sample(pub TempDir);

const FILES: [(&str, &str); 10] = [
    ("bundle.toml", "revision = 3\nwaves = [\"first\", \"second\"]\n"),
    ("apps/namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: apps}\n"),
    (
        "apps/web/release.toml",
        "chart = \"web\"\nwave = \"second\"\nafter = [\"db\"]\ntimeout = \"90s\"\n",
    ),
    ("apps/web/values-homelab.yaml.tera", "host: \"web.{{ cluster.domain }}\"\n"),
    (
        "apps/web/manifests/more.yaml",
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: b.x}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: \"{{ kept }}\"}\n",
    ),
    (
        "apps/db/release.toml",
        "chart = \"locked\"\nwave = \"first\"\nstateful = true\n\
         healthy = [{ kind = \"StatefulSet\", name = \"db\", within = \"5m\" }]\n",
    ),
    ("charts/web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n"),
    ("charts/web/templates/a.yaml", "{{ .Values.host }}\n"),
    (
        "charts/web/crds/c.yaml",
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a.x}\n",
    ),
    ("tests/anything", "not read"),
];

impl Sample {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["images", "profiles"] {
            copy(&shipped().join(folder), &dir.path().join(folder));
        }
        let sample = Self(dir);
        sample.put(
            "cluster.toml",
            &fs::read_to_string(shipped().join("cluster/cluster.toml")).unwrap(),
        );
        for (path, text) in FILES {
            sample.put(path, text);
        }
        sample
    }

    pub fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join("cluster").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.0.path().join("cluster").join(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from}");
        self.put(path, &text.replacen(from, to, 1));
    }

    pub fn lock() -> Lock {
        static LOCK: LazyLock<Lock> =
            LazyLock::new(|| Lock::read(&shipped().join("builder.lock")).unwrap());
        let mut lock = LOCK.clone();
        let mut chart = lock.artifact("k3s").unwrap().clone();
        chart.name = "locked".into();
        chart.kind = builder::lock::ArtifactKind::Chart;
        // The home's own charts are not this bundle's.
        lock.artifacts.retain(|_, artifact| artifact.kind != chart.kind);
        lock.artifacts.insert("locked".into(), chart);
        lock
    }

    pub fn load(&self, lock: &Lock) -> Result<Bundle, String> {
        let project = Project::load(self.0.path()).map_err(|p| p.to_string())?;
        let facts = facts(&project, project.profile("master").unwrap()).unwrap();
        Bundle::load(self.0.path(), &facts, lock).map_err(|p| p.to_string()).map(Option::unwrap)
    }

    pub fn key(&self, profile: &str) -> String {
        let project = Project::load(self.0.path()).unwrap();
        let own = std::env::current_exe().unwrap();
        let profile = project.profile(profile).unwrap();
        Plan::new(&project, profile, &Self::lock(), &own).unwrap().keys.image.to_string()
    }
}
