//! Telling a person how a rollout ended, by ntfy or Pushover. Where to is what alerts use already: the
//! Secret `monitoring/alert-receivers` of `cluster/secrets.age`, else `[notify]` of the cluster's file.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use reqwest::blocking::{Client, RequestBuilder};

use crate::config::Cluster;
use crate::secrets::vault::Content;

/// The Secret that says where alerts go.
const RECEIVERS: &str = "monitoring/alert-receivers";
/// Where Pushover takes messages.
const PUSHOVER: &str = "https://api.pushover.net/1/messages.json";
/// For one message, with name, connection and answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest text, in characters: ntfy makes an attachment of more than 4096 bytes, Pushover takes 1024.
const LONGEST: usize = 1000;

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// In one line.
    pub title: String,
    /// The rest.
    pub text: String,
    /// Whether somebody has to act.
    pub urgent: bool,
}

/// Who is told. What is in it beyond the server must not reach a log.
pub enum Target {
    /// A topic of an ntfy server.
    Ntfy {
        /// `https://SERVER/TOPIC`.
        url: String,
        /// An access token, for topics that need one.
        token: Option<String>,
    },
    /// A person at Pushover.
    Pushover {
        /// Where messages go.
        url: String,
        /// The person.
        user: String,
        /// The application.
        token: String,
    },
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Target {
    const fn name(&self) -> &'static str {
        match self {
            Self::Ntfy { .. } => "ntfy",
            Self::Pushover { .. } => "Pushover",
        }
    }

    fn request(&self, client: &Client, message: &Message) -> RequestBuilder {
        let text: String = message.text.chars().take(LONGEST).collect();
        match self {
            Self::Ntfy { url, token } => {
                let (priority, tag) =
                    if message.urgent { ("high", "rotating_light") } else { ("default", "tada") };
                let title: String = message.title.chars().filter(|c| !c.is_control()).collect();
                let request = client.post(url).header("Title", title).header("Tags", tag);
                let request = request.header("Priority", priority).body(text);
                match token {
                    Some(token) => request.bearer_auth(token),
                    None => request,
                }
            }
            Self::Pushover { url, user, token } => client.post(url).form(&[
                ("token", token.as_str()),
                ("user", user),
                ("title", &message.title),
                ("message", &text),
                ("priority", if message.urgent { "1" } else { "0" }),
            ]),
        }
    }
}

/// Whom the project tells.
pub fn targets(cluster: &Cluster, content: &Content) -> Vec<Target> {
    let values = content.secret.get(RECEIVERS);
    let value = |key: &str| values?.get(key).filter(|text| !text.is_empty()).cloned();
    let ntfy = value("ntfy-url").or_else(|| cluster.ntfy.clone());
    let ntfy = ntfy.map(|url| Target::Ntfy { url, token: value("ntfy-token") });
    let pushover = value("pushover-user").zip(value("pushover-token"));
    let pushover =
        pushover.map(|(user, token)| Target::Pushover { url: PUSHOVER.to_owned(), user, token });
    ntfy.into_iter().chain(pushover).collect()
}

/// Tells all of them; the failures, each with whom. What was done stays done when nobody can be told.
pub fn tell(targets: &[Target], message: &Message) -> Vec<anyhow::Error> {
    let told = |target: &Target| {
        send(target, message).with_context(|| format!("failed to tell {}", target.name()))
    };
    targets.iter().filter_map(|target| told(target).err()).collect()
}

fn send(target: &Target, message: &Message) -> Result<()> {
    // A second call finds it installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(LIMIT).build().context("failed to set up HTTPS")?;
    let sent = target.request(&client, message).send();
    // The URL of a topic is what guards it.
    let status = sent.map_err(|e| anyhow!(e.without_url()))?.status();
    ensure!(status.is_success(), "the server answers {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// A server that answers once; what it was asked.
    fn once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 4096];
            // Head and body may come in two parts.
            while !String::from_utf8_lossy(&asked).contains("END") {
                let n = stream.read(&mut buffer).unwrap();
                asked.extend(&buffer[..n]);
            }
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8(asked).unwrap()
        });
        (url, asked)
    }

    fn message(urgent: bool) -> Message {
        Message { title: "rollout: 3 nodes".into(), text: "w1 w2; END".into(), urgent }
    }

    #[test]
    fn ntfy_gets_title_priority_and_its_token() {
        let (url, asked) = once("200 OK");
        let target = Target::Ntfy { url: url + "/nodes", token: Some("tk".into()) };
        assert!(tell(&[target], &message(true)).is_empty());
        let asked = asked.join().unwrap().to_lowercase();
        assert!(asked.starts_with("post /nodes "), "{asked}");
        for want in
            ["title: rollout: 3 nodes", "priority: high", "authorization: bearer tk", "w1 w2"]
        {
            assert!(asked.contains(want), "{want}: {asked}");
        }
    }

    #[test]
    fn pushover_gets_a_form_and_a_refusal_shows_no_secret() {
        let (url, asked) = once("400 Bad Request");
        let target = Target::Pushover {
            url: url.clone(),
            user: "s3cret-u".into(),
            token: "s3cret-t".into(),
        };
        assert_eq!(format!("{target:?}"), "Pushover");
        let text =
            format!("{:#}", tell(&[target], &Message { text: "END".into(), ..message(false) })[0]);
        let asked = asked.join().unwrap();
        assert!(asked.contains("user=s3cret-u") && asked.contains("priority=0"), "{asked}");
        assert_eq!(text, "failed to tell Pushover: the server answers 400 Bad Request");
        assert!(!text.contains("s3cret") && !text.contains(&url));
    }

    #[test]
    fn whoever_gets_alerts_is_told() {
        let project = crate::status::tests::project();
        let mut content = Content::new();
        assert!(targets(&project.cluster, &content).is_empty());
        let cluster = Cluster { ntfy: Some("https://a/b".into()), ..project.cluster };
        assert_eq!(format!("{:?}", targets(&cluster, &content)), "[ntfy]");
        let values = [("ntfy-url", ""), ("pushover-user", "u"), ("pushover-token", "t")];
        let values = values.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        content.secret.insert(RECEIVERS.to_owned(), values);
        assert_eq!(format!("{:?}", targets(&cluster, &content)), "[ntfy, Pushover]");
    }
}
