//! The bundle as whole projects: every broken rule with its message, the packed files, and which
//! images a change of it makes new.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken preparation ends the test")]

mod sample;

use std::path::Path;

use builder::bundle::{Bundle, pack, write};
use builder::config::Project;
use builder::image::plan::facts;
use builder::lock::{Lock, standin};
use builder::store::Store;
use node::bundle::Bundle as Packed;
use sample::{Sample, shipped};

type Change = &'static dyn Fn(&Sample);

/// Each rule with the change that breaks it and the message, whole.
const BROKEN: &[(Change, &str)] = &[
    (
        &|s| s.edit("apps/web/release.toml", "second", "secnod"),
        "cluster/apps/web/release.toml:2:8: wave = \"secnod\" is no wave of cluster/bundle.toml\n  \
         hint: did you mean `second`?",
    ),
    (
        &|s| s.edit("apps/web/release.toml", "\"web\"", "\"wbe\""),
        "cluster/apps/web/release.toml:1:9: chart = \"wbe\" is neither a folder of cluster/charts nor a \
         chart in builder.lock\n  hint: known are `locked`, `web`",
    ),
    (
        &|s| s.edit("apps/web/release.toml", "\"db\"", "\"dbb\""),
        "cluster/apps/web/release.toml:3:10: after[0] = \"dbb\" is no release of the bundle\n  \
         hint: did you mean `db`?",
    ),
    (
        &|s| s.edit("apps/db/release.toml", "wave =", "after = [\"web\"]\nwave ="),
        "cluster/apps/db/release.toml:2:10: after[0] = \"web\" is in a later wave\n\
         cluster/apps/web/release.toml:3:10: after[0] = \"db\" waits for this one in turn\n2 problems",
    ),
    (
        &|s| {
            s.edit("apps/db/release.toml", "first", "second");
            s.edit("apps/db/release.toml", "wave =", "after = [\"web\"]\nwave =");
        },
        "cluster/apps/db/release.toml:2:10: after[0] = \"web\" waits for this one in turn\n\
         cluster/apps/web/release.toml:3:10: after[0] = \"db\" waits for this one in turn\n2 problems",
    ),
    (
        &|s| s.edit("apps/db/release.toml", "wave =", "enabled = false\nwave ="),
        "cluster/apps/web/release.toml:3:10: after[0] = \"db\" is a release that is not enabled",
    ),
    (
        &|s| s.edit("apps/web/release.toml", "90s", "90"),
        "cluster/apps/web/release.toml:4:11: timeout = \"90\" must be a whole number with s, m or h, \
         such as 90s or 15m",
    ),
    (
        &|s| s.edit("apps/web/release.toml", "wave = ", "wvae = "),
        "cluster/apps/web/release.toml:2:1: wvae is not a known key here\n  hint: did you mean `wave`?",
    ),
    (
        &|s| s.edit("apps/db/release.toml", "StatefulSet", "Statefulset"),
        "cluster/apps/db/release.toml:4:21: healthy[0].kind = \"Statefulset\" is a kind that needs `api` \
         and `condition`\n  hint: did you mean `StatefulSet`?",
    ),
    (
        &|s| s.edit("apps/db/release.toml", "kind =", "api = \"x/v1\", kind ="),
        "cluster/apps/db/release.toml:4:35: healthy[0].kind = \"StatefulSet\" needs a `condition` that \
         must be True",
    ),
    (
        &|s| s.edit("bundle.toml", "3", "0"),
        "cluster/bundle.toml:1:12: revision = 0 must be at least 1",
    ),
    (
        &|s| s.edit("bundle.toml", "\"first\"", "\"first\", \"first\""),
        "cluster/bundle.toml:2:19: waves[1] = \"first\" stands there twice",
    ),
    (
        &|s| s.put("apps/web/value-homelab.yaml", ""),
        "cluster/apps/web/value-homelab.yaml: is no file the bundle knows\n  \
         hint: a release has release.toml, values-homelab.yaml and manifests/",
    ),
    (
        &|s| s.put("apps/notes.txt", ""),
        "cluster/apps/notes.txt: is no file the bundle knows\n  \
         hint: a namespace has `namespace.yaml` and one folder per release",
    ),
    (
        &|s| s.put("data/db/release.toml", "chart = \"web\"\nwave = \"first\"\n"),
        "cluster/data/db: is a second release of that name; cluster/apps/db is the first\n\
         cluster/data/namespace.yaml: is missing\n  \
         hint: it holds the Namespace object with its Pod Security labels\n2 problems",
    ),
    (
        &|s| s.edit("apps/namespace.yaml", "name: apps", "name: app"),
        "cluster/apps/namespace.yaml: must hold a Namespace called `apps`",
    ),
    (
        &|s| s.put("apps/Web/release.toml", "chart = \"web\"\nwave = \"first\"\n"),
        "cluster/apps/Web: has a name that may hold only lower-case letters, digits and `-`",
    ),
    (
        &|s| {
            s.put(
                "apps/db/manifests/pvc.yaml.tera",
                "apiVersion: v1\nkind: A\nmetadata: {name: {{ no }}}\n",
            );
        },
        "cluster/apps/db/manifests/pvc.yaml.tera: cannot be rendered: ",
    ),
    (
        &|s| {
            s.put(
                "apps/web/manifests/pvc.yaml",
                "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: v}\n",
            );
        },
        "cluster/apps/web/manifests/pvc.yaml: PersistentVolumeClaim v holds data, but the release is not \
         stateful\n  hint: write `stateful = true` into its release.toml",
    ),
    (
        &|s| s.put("charts/web/templates/v.yaml", "spec:\n  volumeClaimTemplates:\n"),
        "cluster/apps/web/release.toml: chart web holds data, but the release is not stateful\n  \
         hint: write `stateful = true` into its release.toml",
    ),
    (
        &|s| s.put("charts/web/Chart.yaml", "apiVersion: v2\nname: wbe\nversion: 1.0.0\n"),
        "cluster/apps/web/release.toml:1:9: chart = \"web\" is neither a folder of cluster/charts nor a \
         chart in builder.lock\n  hint: known are `locked`\n\
         cluster/charts/web: Chart.yaml: name must be that of the folder, `web`\n2 problems",
    ),
    (
        &|s| s.put("apps/web/values-homelab.yaml", "a: 1\n"),
        "cluster/apps/web/values-homelab.yaml: stands there twice, also as `.tera`",
    ),
    (
        &|s| s.put("apps/web/values-homelab.yaml.tera", "a: [1\nb: 2\n"),
        "cluster/apps/web/values-homelab.yaml.tera:",
    ),
    (
        &|s| s.put("apps/empty/release.toml", "wave = \"first\"\n"),
        "cluster/apps/empty: has neither a chart nor manifests",
    ),
    (
        &|s| s.put("apps/bare/values-homelab.yaml", "a: 1\n"),
        "cluster/apps/bare/release.toml: is missing\n  hint: `builder schema release` says what it holds",
    ),
    (
        &|s| {
            s.put(
                "apps/web/manifests/route.yaml",
                "apiVersion: traefik.io/v1alpha1\nkind: IngressRoute\nmetadata: {name: r}\n\
                 spec: {routes: [{services: [{name: wep, port: 80}]}]}\n",
            );
            s.edit("apps/web/release.toml", "wave", "makes = [\"Service web 80\"]\nwave");
        },
        "cluster/apps/web/manifests/route.yaml: IngressRoute r: spec.routes[0].services[0] names Service \
         apps/wep, which nothing makes\n  hint: did you mean `web`?",
    ),
    (
        &|s| s.edit("apps/web/release.toml", "wave", "makes = [\"Service\"]\nwave"),
        "cluster/apps/web/release.toml:2:10: makes[0] = \"Service\" must be `KIND NAME` or `KIND NAME PORT,PORT`",
    ),
    (
        &|s| {
            let requests = "requests = { cpu = \"2\", memory = \"1GB\" }\nwave";
            s.edit("apps/web/release.toml", "wave", requests);
        },
        "cluster/apps/web/release.toml:2:12: requests = { cpu = \"2\", memory = \"1GB\" } memory must be such as \
         `512Mi` or `1Gi`",
    ),
    (
        &|s| s.edit("cluster.toml", "[proxmox]", "[bundle]\noff = [\"wbe\"]\n\n[proxmox]"),
        "is no release of the bundle\n  hint: known are `db`, `web`",
    ),
];

#[test]
fn every_broken_rule_is_told_with_its_place_and_fix() {
    let mut wrong = Vec::new();
    for (number, (change, want)) in BROKEN.iter().enumerate() {
        let sample = Sample::new();
        change(&sample);
        let text = sample.load(&Sample::lock()).err().unwrap_or_else(|| "no problem".to_owned());
        // Where another program's words follow, or a place that the home's own file decides.
        let part = want.ends_with(": ") || want.ends_with(':') || want.starts_with("is ");
        if text != *want && !(part && text.contains(want)) {
            wrong.push(format!("{number}:\n{text}\nnot\n{want}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_bundle_that_does_not_fit_the_nodes_is_told_with_what_there_is() {
    let told = |requests: &str| {
        let sample = Sample::new();
        sample.edit("apps/web/release.toml", "wave", &format!("{requests}\nwave"));
        let bundle = sample.load(&Sample::lock()).unwrap();
        let project = Project::load(sample.0.path()).unwrap();
        bundle.check_capacity(&project).err().map(|problems| problems.to_string())
    };
    // Two workers of 4 cores and 8 GiB, of which 512 MiB are the node's own.
    assert_eq!(told("requests = { cpu = \"8\", memory = \"15Gi\" }"), None);
    let hint = "\n  hint: larger `vm` sizes, further nodes, or releases off by [bundle]";
    assert_eq!(
        told("requests = { cpu = \"8\", memory = \"15361Mi\" }").unwrap(),
        format!(
            "cluster/cluster.toml: the bundle's pods ask for 8000m of processors and 15361 MiB of memory; \
             the nodes that take ordinary pods (2 of `worker`) have 8000m of processors and 15360 MiB of \
             memory{hint}"
        )
    );
    assert_eq!(
        told("per_node = { cpu = \"3\", memory = \"1Gi\" }").unwrap(),
        format!(
            "cluster/cluster.toml: the bundle runs pods on each node that ask for 3000m of processors and \
             1024 MiB of memory; a node of the profile `dev` has 2000m of processors and 3584 MiB of \
             memory for pods{hint}\n\
             cluster/cluster.toml: the bundle runs pods on each node that ask for 3000m of processors and \
             1024 MiB of memory; a node of the profile `master` has 2000m of processors and 2048 MiB of \
             memory for pods{hint}\n2 problems"
        )
    );
}

#[test]
fn what_is_packed_is_an_index_and_exactly_the_files_it_names() {
    let sample = Sample::new();
    let mut lock = Sample::lock();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
    standin(&mut lock, &store, "locked", Path::new("none")).unwrap();
    let bundle = sample.load(&lock).unwrap();
    let files = pack(&bundle, &store).unwrap();
    assert_eq!(files, pack(&sample.load(&lock).unwrap(), &store).unwrap(), "the same bytes again");
    let folder = dir.path().join("bundle");
    write(&files, &folder).unwrap();
    let (index, _) = Packed::load(&folder).unwrap();
    let mut named: Vec<_> = index.files().map(|f| f.path.as_str()).collect();
    named.push("bundle.json");
    named.sort_unstable();
    assert_eq!(named, files.keys().collect::<Vec<_>>());
    for file in index.files() {
        file.read(&folder).unwrap();
    }
    let order: Vec<_> = index.releases().map(node::bundle::Release::id).collect();
    assert_eq!((index.revision, order), (3, vec!["apps/db".to_owned(), "apps/web".to_owned()]));
    let crds: Vec<_> = index.crds.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(
        crds,
        ["crds/web.json", "crds/release-web.json"],
        "of the chart and of the manifests"
    );
    let left_out: Vec<_> =
        index.releases().filter(|r| r.is_left_out()).map(|r| r.name.as_str()).collect();
    assert_eq!(left_out, ["db"]);
    let text = |path: &str| String::from_utf8(files[path].clone()).unwrap();
    assert_eq!(text("values/apps/web.yaml"), "host: \"web.home.jetzinger.com\"\n");
    let more = text("manifests/apps/web/more.json");
    assert!(more.contains("{{ kept }}") && !more.contains("CustomResource"), "{more}");
}

#[test]
fn a_release_can_be_turned_off_and_on_for_one_home() {
    let sample = Sample::new();
    let names = |sample: &Sample| -> Vec<String> {
        let bundle = sample.load(&Sample::lock()).unwrap();
        bundle.releases().map(|r| r.name.to_string()).collect()
    };
    assert_eq!(names(&sample), ["db", "web"]);
    sample.edit("cluster.toml", "[proxmox]", "[bundle]\noff = [\"web\"]\n\n[proxmox]");
    assert_eq!(names(&sample), ["db"]);
    sample.edit("cluster.toml", "off = [\"web\"]", "on = [\"web\"]");
    sample.edit("apps/web/release.toml", "wave", "enabled = false\nwave");
    assert_eq!(names(&sample), ["db", "web"]);
}

#[test]
fn issuer_and_alerts_of_one_home_reach_the_servers_bundle_alone() {
    let sample = Sample::new();
    let values = "issuer: {{ bundle.issuer }}\nreceiver: {{ bundle.alerts }}\n";
    sample.put("apps/web/values-homelab.yaml.tera", values);
    let values = |sample: &Sample| {
        let bundle = sample.load(&Sample::lock()).unwrap();
        let web = bundle.releases().find(|r| r.name.as_str() == "web").unwrap().clone();
        web.values.unwrap()
    };
    assert_eq!(values(&sample), "issuer: letsencrypt-prod\nreceiver: ntfy\n");
    let (master, worker) = (sample.key("master"), sample.key("worker"));
    let chosen = "[bundle]\nissuer = \"private-ca\"\nalerts = \"slack\"\n\n[proxmox]";
    sample.edit("cluster.toml", "[proxmox]", chosen);
    assert_eq!(values(&sample), "issuer: private-ca\nreceiver: slack\n");
    assert_ne!(sample.key("master"), master);
    assert_eq!(sample.key("worker"), worker);
}

#[test]
fn a_change_of_the_bundle_makes_the_servers_image_new_and_no_other() {
    let sample = Sample::new();
    let (master, worker) = (sample.key("master"), sample.key("worker"));
    let changes: [Change; 5] = [
        &|s| s.edit("bundle.toml", "3", "4"),
        &|s| s.edit("charts/web/templates/a.yaml", "host", "name"),
        &|s| s.edit("apps/web/values-homelab.yaml.tera", "web.", "www."),
        &|s| s.edit("apps/web/manifests/more.yaml", "name: m", "name: other"),
        &|s| s.edit("apps/namespace.yaml", "apps}", "apps, labels: {a: b}}"),
    ];
    for change in changes {
        change(&sample);
        assert_ne!(sample.key("master"), master);
        assert_eq!(sample.key("worker"), worker);
    }
    // A note changes nothing at all.
    let master = sample.key("master");
    sample.put("apps/web/README.md", "a note");
    assert_eq!(sample.key("master"), master);
}

#[test]
fn the_home_of_this_project_has_a_sound_bundle() {
    let project = Project::load(&shipped()).unwrap();
    let facts = facts(&project, project.profile("master").unwrap()).unwrap();
    let lock = Lock::read(&shipped().join("builder.lock")).unwrap();
    let bundle =
        Bundle::load(&shipped(), &facts, &lock).map_err(|p| p.to_string()).unwrap().unwrap();
    assert!(bundle.releases().any(|r| r.name.as_str() == "nfs-health"));
}
