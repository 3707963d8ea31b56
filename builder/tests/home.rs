//! Rules of this project's own bundle that no single file shows: every way in asks for a login, every
//! namespace denies what no policy allows.

#![allow(clippy::unwrap_used, reason = "a broken preparation ends the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use builder::bundle::Bundle;
use builder::config::Project;
use builder::image::plan::facts;
use builder::lock::Lock;
use serde_json::{Value, json};

/// Names what asks for a login behind a route whose middleware does not.
const LOGIN: &str = "home-lab/authentication";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every plain object of the bundle, with those of the namespaces.
fn objects() -> Vec<Value> {
    let project = Project::load(&shipped()).unwrap();
    let facts = facts(&project, project.profile("master").unwrap()).unwrap();
    let lock = Lock::read(&shipped().join("builder.lock")).unwrap();
    let bundle = Bundle::load(&shipped(), &facts, &lock).map_err(|p| p.to_string());
    let bundle = bundle.unwrap().unwrap();
    let manifests = bundle.releases().flat_map(|release| release.manifests.values());
    manifests.chain(bundle.namespaces.values()).flatten().cloned().collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn names(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

/// Routes that a stranger, or anybody without a login, could use.
fn open(objects: &[Value]) -> Vec<String> {
    let routes = of_kind(objects, "IngressRoute").chain(of_kind(objects, "IngressRouteTCP"));
    let lacking = routes.filter(|object| {
        let own = object["metadata"]["annotations"][LOGIN].is_string();
        let all = object["spec"]["routes"].as_array().unwrap();
        !all.iter().all(|route| {
            let guards = names(&route["middlewares"]);
            guards.contains("home-login") || (own && guards.contains("home-only"))
        })
    });
    lacking.map(|object| object["metadata"]["name"].to_string()).collect()
}

/// Files of `folder` and below, with their text, as far as they are text.
fn texts(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(texts(&path));
        } else if let Ok(text) = fs_err::read_to_string(&path) {
            all.push((path, text));
        }
    }
    all
}

/// What its makers have given up, or moved away from (traps H9 and H10).
const GONE: [&str; 2] = ["bitnami", "promtail"];

/// Where a file says so, other than in a comment.
fn given_up(all: &[(PathBuf, String)]) -> Vec<String> {
    let lines = all.iter().flat_map(|(path, text)| text.lines().map(move |line| (path, line)));
    let said = lines.filter(|(_, line)| {
        let line = line.trim_start().to_lowercase();
        !line.starts_with('#') && GONE.iter().any(|name| line.contains(name))
    });
    said.map(|(path, line)| format!("{}: {line}", path.display())).collect()
}

#[test]
fn nothing_comes_from_where_its_makers_have_left() {
    let mut all = texts(&shipped().join("cluster"));
    let lock = shipped().join("builder.lock");
    all.push((lock.clone(), fs_err::read_to_string(&lock).unwrap()));
    assert!(all.len() > 100, "{}", all.len());
    assert_eq!(given_up(&all), Vec::<String>::new());
    all.push((lock, "  image: docker.io/bitnami/redis:1".to_owned()));
    assert_eq!(given_up(&all).len(), 1, "it would be seen");
}

/// Traps H1, H5 and H8: charts come to helm as files of the image, and never as objects of K3s'
/// controller, which removes a release with its object and uninstalls one that fails.
#[test]
fn no_object_is_one_of_k3s_helm_controller() {
    let of_it = |object: &&Value| {
        object["apiVersion"].as_str().is_some_and(|api| api.starts_with("helm.cattle.io/"))
    };
    let objects = objects();
    assert!(objects.len() > 50, "{}", objects.len());
    assert_eq!(objects.iter().filter(of_it).count(), 0);
}

#[test]
fn every_way_in_is_for_the_home_and_asks_for_a_login() {
    let mut objects = objects();
    assert_eq!(open(&objects), Vec::<String>::new());
    assert!(of_kind(&objects, "IngressRoute").count() >= 8);
    objects.push(json!({"kind": "IngressRoute", "metadata": {"name": "bare"},
        "spec": {"routes": [{"middlewares": [{"name": "home-only"}]}]}}));
    assert_eq!(open(&objects), ["\"bare\""], "addresses alone are no login");
}

#[test]
fn every_https_route_has_a_certificate_in_its_namespace() {
    let objects = objects();
    let place =
        |object: &Value, name: &Value| format!("{}/{name}", object["metadata"]["namespace"]);
    let made: BTreeSet<_> = of_kind(&objects, "Certificate")
        .map(|object| place(object, &object["spec"]["secretName"]))
        .collect();
    for route in of_kind(&objects, "IngressRoute") {
        let wanted = place(route, &route["spec"]["tls"]["secretName"]);
        assert!(made.contains(&wanted), "nothing makes {wanted}");
    }
}

#[test]
fn every_namespace_has_a_level_and_denies_what_nobody_allows() {
    let objects = objects();
    let spaces: Vec<_> = of_kind(&objects, "Namespace").collect();
    assert_eq!(spaces.len(), 8);
    for space in spaces {
        let name = &space["metadata"]["name"];
        let level = &space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
        assert!(level.is_string(), "{name} has no pod-security level");
        let denies = of_kind(&objects, "NetworkPolicy").any(|policy| {
            policy["metadata"]["namespace"] == *name
                && policy["spec"]["podSelector"] == json!({})
                && policy["spec"]["ingress"].is_null()
                && policy["spec"]["egress"].is_null()
        });
        assert!(denies, "{name} lets in what no policy allows");
    }
}

/// Policies of a namespace.
fn policies<'a>(objects: &'a [Value], space: &'a str) -> impl Iterator<Item = &'a Value> {
    let own = move |policy: &&Value| policy["metadata"]["namespace"] == space;
    of_kind(objects, "NetworkPolicy").filter(own).map(|policy| &policy["spec"])
}

/// The pod that answers to HTTP-01 runs in the namespace of the certificate that is asked for.
#[test]
fn answers_to_http_01_are_reached_wherever_a_certificate_is_asked_for() {
    let objects = objects();
    let acme = |certificate: &&Value| {
        let issuer = certificate["spec"]["issuerRef"]["name"].as_str().unwrap();
        issuer.starts_with("letsencrypt")
    };
    let asking = of_kind(&objects, "Certificate").filter(acme);
    let spaces: BTreeSet<_> = asking.filter_map(|c| c["metadata"]["namespace"].as_str()).collect();
    assert!(spaces.len() >= 6, "{spaces:?}");
    let solver = json!({"acme.cert-manager.io/http01-solver": "true"});
    let anyone = json!([{"ports": [{"port": 8089, "protocol": "TCP"}]}]);
    for space in spaces {
        let opens = policies(&objects, space)
            .any(|spec| spec["podSelector"]["matchLabels"] == solver && spec["ingress"] == anyone);
        assert!(opens, "nobody reaches the answer for a certificate in {space}");
    }
}

/// `PostgreSQL` lets a namespace in by its label (FR35): then every pod there is let out to it.
#[test]
fn where_the_label_says_so_every_pod_reaches_postgres() {
    let objects = objects();
    let label = |o: &&Value| o["metadata"]["labels"]["home-lab/uses-postgres"] == "true";
    let spaces: Vec<_> = of_kind(&objects, "Namespace").filter(label).collect();
    assert!(!spaces.is_empty());
    for space in spaces {
        let name = space["metadata"]["name"].as_str().unwrap();
        let lets_out = policies(&objects, name).any(|spec| {
            let there = &spec["egress"][0]["to"][0]["namespaceSelector"]["matchLabels"];
            spec["podSelector"] == json!({})
                && there["kubernetes.io/metadata.name"] == "data"
                && spec["egress"][0]["ports"][0]["port"] == 5432
        });
        assert!(lets_out, "pods of {name} may not go to PostgreSQL");
    }
}
