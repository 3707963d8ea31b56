//! Where objects of each kind name others.

use serde_json::{Value, json};

use super::pods::spec_of;
use super::{Mention, Placed};

/// Everything an object names.
pub fn of(placed: &Placed<'_>) -> Vec<Mention> {
    let mut found = Finder { placed, mentions: Vec::new() };
    let spec = &placed.object["spec"];
    match placed.object["kind"].as_str().unwrap_or_default() {
        "Certificate" => found.issuer(&spec["issuerRef"]),
        "ClusterIssuer" | "Issuer" => found.of_issuer(spec),
        "IngressRoute" => found.route(spec, "Middleware"),
        "IngressRouteTCP" => found.route(spec, "MiddlewareTCP"),
        "Middleware" => {
            found.name("Secret", "spec.basicAuth.secret", &spec["basicAuth"]["secret"]);
            found.middlewares("spec.chain", &spec["chain"], "Middleware");
        }
        "PersistentVolumeClaim" => found.storage("spec", spec),
        "RoleBinding" | "ClusterRoleBinding" => found.binding(),
        "StatefulSet" => {
            found.name("Service", "spec.serviceName", &spec["serviceName"]);
            for (n, claim) in list(&spec["volumeClaimTemplates"]) {
                found.storage(&format!("spec.volumeClaimTemplates[{n}].spec"), &claim["spec"]);
            }
        }
        _ => {}
    }
    if let Some((path, spec)) = spec_of(placed.object) {
        found.pod(path, spec);
    }
    found.mentions
}

/// The items of a list with their numbers; none for what is no list.
pub fn list(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

struct Finder<'a> {
    placed: &'a Placed<'a>,
    mentions: Vec<Mention>,
}

impl Finder<'_> {
    fn push(
        &mut self,
        kind: &'static str,
        path: &str,
        namespace: &str,
        name: &Value,
        part: Option<String>,
    ) {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            let (path, namespace, name) = (path.to_owned(), namespace.to_owned(), name.to_owned());
            self.mentions.push(Mention { path, kind, namespace, name, part });
        }
    }

    /// A name in the object's own namespace.
    fn name(&mut self, kind: &'static str, path: &str, name: &Value) {
        let namespace = self.placed.namespace().to_owned();
        self.push(kind, path, &namespace, name, None);
    }

    /// `{name, key, optional}`, as pods and issuers point at one value.
    fn value(&mut self, kind: &'static str, path: &str, pointer: &Value) {
        if pointer["optional"] != true {
            let namespace = self.placed.namespace().to_owned();
            let key = pointer["key"].as_str().map(str::to_owned);
            self.push(kind, path, &namespace, &pointer["name"], key);
        }
    }

    fn issuer(&mut self, reference: &Value) {
        if reference["kind"] == "ClusterIssuer" {
            self.push("ClusterIssuer", "spec.issuerRef", "", &reference["name"], None);
        } else {
            self.name("Issuer", "spec.issuerRef", &reference["name"]);
        }
    }

    /// Secrets of a `ClusterIssuer` lie in cert-manager's namespace, which is that of its release.
    fn of_issuer(&mut self, spec: &Value) {
        self.name("Secret", "spec.ca.secretName", &spec["ca"]["secretName"]);
        for (n, solver) in list(&spec["acme"]["solvers"]) {
            let Some(ways) = solver["dns01"].as_object() else { continue };
            for (way, settings) in ways {
                let settings = settings.as_object().into_iter().flatten();
                for (key, pointer) in settings.filter(|(key, _)| key.ends_with("SecretRef")) {
                    let path = format!("spec.acme.solvers[{n}].dns01.{way}.{key}");
                    self.value("Secret", &path, pointer);
                }
            }
        }
    }

    fn route(&mut self, spec: &Value, middleware: &'static str) {
        for (n, route) in list(&spec["routes"]) {
            let path = format!("spec.routes[{n}]");
            self.middlewares(&path, route, middleware);
            for (m, service) in list(&route["services"]) {
                // Traefik's own, such as its dashboard.
                if service["kind"] == "TraefikService" {
                    continue;
                }
                let namespace = self.namespace_of(service);
                let port = match &service["port"] {
                    Value::Number(number) => Some(number.to_string()),
                    port => port.as_str().map(str::to_owned),
                };
                let path = format!("{path}.services[{m}]");
                self.push("Service", &path, &namespace, &service["name"], port);
            }
        }
        self.name("Secret", "spec.tls.secretName", &spec["tls"]["secretName"]);
    }

    fn middlewares(&mut self, path: &str, above: &Value, kind: &'static str) {
        for (n, middleware) in list(&above["middlewares"]) {
            let namespace = self.namespace_of(middleware);
            let path = format!("{path}.middlewares[{n}]");
            self.push(kind, &path, &namespace, &middleware["name"], None);
        }
    }

    fn namespace_of(&self, pointer: &Value) -> String {
        pointer["namespace"].as_str().unwrap_or_else(|| self.placed.namespace()).to_owned()
    }

    fn storage(&mut self, path: &str, spec: &Value) {
        let path = format!("{path}.storageClassName");
        self.push("StorageClass", &path, "", &spec["storageClassName"], None);
    }

    fn binding(&mut self) {
        let object = self.placed.object;
        match object["roleRef"]["kind"].as_str() {
            Some("Role") => self.name("Role", "roleRef", &object["roleRef"]["name"]),
            // Its own have a prefix.
            Some("ClusterRole")
                if !object["roleRef"]["name"].to_string().starts_with("\"system:") =>
            {
                self.push("ClusterRole", "roleRef", "", &object["roleRef"]["name"], None);
            }
            _ => {}
        }
        for (n, subject) in list(&object["subjects"]) {
            if subject["kind"] == "ServiceAccount" {
                let namespace = self.namespace_of(subject);
                let path = format!("subjects[{n}]");
                self.push("ServiceAccount", &path, &namespace, &subject["name"], None);
            }
        }
    }

    fn pod(&mut self, path: &str, spec: &Value) {
        let priority = &spec["priorityClassName"];
        self.push("PriorityClass", &format!("{path}.priorityClassName"), "", priority, None);
        let account = &spec["serviceAccountName"];
        self.name("ServiceAccount", &format!("{path}.serviceAccountName"), account);
        for (n, secret) in list(&spec["imagePullSecrets"]) {
            self.name("Secret", &format!("{path}.imagePullSecrets[{n}]"), &secret["name"]);
        }
        for (n, volume) in list(&spec["volumes"]) {
            let path = format!("{path}.volumes[{n}]");
            self.volume(&path, volume);
            for (m, source) in list(&volume["projected"]["sources"]) {
                let path = format!("{path}.projected.sources[{m}]");
                self.value("Secret", &path, &source["secret"]);
                self.value("ConfigMap", &path, &source["configMap"]);
            }
        }
        for group in ["initContainers", "containers"] {
            for (n, container) in list(&spec[group]) {
                self.container(&format!("{path}.{group}[{n}]"), container);
            }
        }
    }

    fn volume(&mut self, path: &str, volume: &Value) {
        let (secret, map) = (&volume["secret"], &volume["configMap"]);
        if secret["optional"] != true {
            self.name("Secret", path, &secret["secretName"]);
        }
        if map["optional"] != true {
            self.name("ConfigMap", path, &map["name"]);
        }
        let claim = &volume["persistentVolumeClaim"]["claimName"];
        self.name("PersistentVolumeClaim", path, claim);
        for (kind, from, name) in [("Secret", secret, "secretName"), ("ConfigMap", map, "name")] {
            for (n, item) in list(&from["items"]) {
                let optional = &from["optional"];
                let pointer = json!({"name": from[name], "key": item["key"], "optional": optional});
                self.value(kind, &format!("{path}.items[{n}]"), &pointer);
            }
        }
    }

    fn container(&mut self, path: &str, container: &Value) {
        for (n, variable) in list(&container["env"]) {
            let (path, from) = (format!("{path}.env[{n}]"), &variable["valueFrom"]);
            self.value("Secret", &path, &from["secretKeyRef"]);
            self.value("ConfigMap", &path, &from["configMapKeyRef"]);
        }
        for (n, from) in list(&container["envFrom"]) {
            let path = format!("{path}.envFrom[{n}]");
            self.value("Secret", &path, &from["secretRef"]);
            self.value("ConfigMap", &path, &from["configMapRef"]);
        }
    }
}
