//! Certificates that are not good: which one, until when, and what to do; nothing is changed.

use pve_double::{CertificateSetup, Double, Setup};

use crate::home::Home;

/// A server with another certificate, and what the program says of it in `args`.
fn told(certificate: CertificateSetup, args: &[&str]) -> (i32, String) {
    let setup = Setup { certificate, ..Setup::default() };
    let double = Double::start(setup).unwrap();
    let home = Home::new();
    home.edit(&home.double.url(), &double.url());
    fs_err::write(home.root().join("ca.pem"), double.ca_pem()).unwrap();
    let said = home.run(args);
    assert!(double.world(|world| world.seen.is_empty()), "nothing was asked");
    let text = format!("{}{}", said.out, said.err).replace(&double.url(), "https://pve1:8006");
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    (said.code, text.replace(double.fingerprint(), "FOUND").replace(&now, "TODAY"))
}

#[test]
fn a_proxmox_whose_certificate_is_over_or_anothers_is_told_with_its_fix() {
    let good = CertificateSetup::default;
    let cases = [
        ("over", CertificateSetup { until: (2025, 3, 1), ..good() }),
        ("not yet", CertificateSetup { from: (2101, 1, 1), ..good() }),
        (
            "another name",
            CertificateSetup { names: vec!["pve9".into(), "10.0.0.9".into()], ..good() },
        ),
    ];
    let clock = regex::Regex::new(r"TODAY \d\d:\d\d").unwrap();
    let mut all = Vec::new();
    for (name, certificate) in cases {
        for args in [&["preflight"][..], &["node", "create", "w1"], &["status"]] {
            let (code, text) = told(certificate.clone(), args);
            let text = clock.replace_all(&text, "TODAY");
            all.push(format!("## {name}, {}: {code}\n{text}", args.join(" ")));
        }
    }
    insta::assert_snapshot!(all.join("\n"));
}

/// The double serves as an API server that is another one than the credentials are made for.
#[test]
fn a_cluster_whose_certificate_is_not_that_of_the_credentials_is_told_at_once() {
    use base64::Engine as _;
    let home = Home::new();
    let other = Double::start(Setup::default()).unwrap();
    let over = CertificateSetup { until: (2025, 3, 1), ..CertificateSetup::default() };
    let over = Double::start(Setup { certificate: over, ..Setup::default() }).unwrap();
    let mut all = Vec::new();
    for (name, server, ca) in
        [("another CA", other.url(), home.double.ca_pem()), ("over", over.url(), over.ca_pem())]
    {
        let ca = base64::engine::general_purpose::STANDARD.encode(ca);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: d\n\
             clusters: [{{name: d, cluster: {{server: \"{server}\", certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: d, user: {{}}}}]\ncontexts: [{{name: d, context: {{cluster: d, user: d}}}}]\n"
        );
        fs_err::write(home.kubeconfig(), text).unwrap();
        all.push(misfit(&home, name));
    }
    home.api.write_kubeconfig(&home.kubeconfig());
    for (name, code) in [("not known", 401), ("no administrator's", 403)] {
        home.api.store().refuses = Some(code);
        all.push(misfit(&home, name));
    }
    let clock = regex::Regex::new(r"today is \S+ \S+ UTC").unwrap();
    insta::assert_snapshot!(clock.replace_all(&all.join("\n"), "today is TODAY"));
}

/// What the commands say, at once, and that they change nothing.
fn misfit(home: &Home, name: &str) -> String {
    let mut told = Vec::new();
    for args in [&["node", "create", "w1"][..], &["rollout"], &["status"]] {
        let start = std::time::Instant::now();
        let said = home.run(args);
        assert!(start.elapsed().as_secs() < 20, "{name}: it waits for what does not pass");
        assert!(said.code == 1 || said.code == 3, "{name}, {args:?}: {}", said.err);
        let text = said.err.lines().chain(said.out.lines());
        let text = text.filter(|line| line.contains("credentials")).collect::<Vec<_>>().join("\n");
        let text = text.replace(home.kubeconfig().to_str().unwrap(), "KUBECONFIG");
        told.push(format!("## {name}, {}: {}\n{text}", args.join(" "), said.code));
    }
    told.join("\n")
}
