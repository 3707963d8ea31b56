//! The status and the timeline of rebuilds as one page that needs nothing beside it: no script, no
//! font, no picture from elsewhere. Every text is escaped; causes hold what other programs said.

use std::fmt::Write as _;

use super::{Row, State, Status};
use crate::status::table::age;

/// Something that was done to a node, on the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The node.
    pub node: String,
    /// Such as `rebuild`.
    pub what: String,
    /// Begin, in seconds since 1970.
    pub from: i64,
    /// End; `None`: still under way, or cut off.
    pub to: Option<i64>,
    /// How it ended, which is also the class of its colour.
    pub outcome: Outcome,
    /// One line about it: images, who, the cause.
    pub text: String,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As meant.
    Done,
    /// It went back by itself.
    Back,
    /// It failed, and a person has to look.
    Failed,
    /// Not ended yet.
    Open,
}

impl Outcome {
    const fn class(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Back => "back",
            Self::Failed => "failed",
            Self::Open => "open",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Back => "went back",
            Self::Failed => "failed",
            Self::Open => "not ended",
        }
    }
}

/// Width of the picture and of the names left of it, height of a node's line, and the least width of
/// an event: what took a minute must be seen among weeks.
const WIDTH: f64 = 960.0;
const NAMES: f64 = 150.0;
const LINE: f64 = 26.0;
const LEAST: f64 = 6.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2128;--dim:#656d76;--line:#d0d7de;--done:#1a7f37;\
--back:#bf8700;--failed:#cf222e;--open:#0969da}\
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--dim:#8d96a0;--line:#30363d;\
--done:#3fb950;--back:#d29922;--failed:#f85149;--open:#58a6ff}}\
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:60rem;\
margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
p,.dim{color:var(--dim)}table{border-collapse:collapse;width:100%;font-size:.9rem}\
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line);\
vertical-align:top}th{color:var(--dim);font-weight:600}code{font:.85em ui-monospace,monospace}\
.done{color:var(--done);fill:var(--done)}.back{color:var(--back);fill:var(--back)}\
.failed{color:var(--failed);fill:var(--failed)}.open{color:var(--open);fill:var(--open)}\
.scroll{overflow-x:auto}svg text{fill:var(--fg);font-size:12px}svg .tick{fill:var(--dim)}\
svg line{stroke:var(--line)}";

/// The page. `events` in any order.
pub fn page(status: &Status, events: &[Event]) -> String {
    let title = format!("Nodes of {}", escape(&status.cluster));
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\">\n<meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{}, seen {}</p>\n",
        summary(status),
        moment(status.at)
    );
    nodes(&mut text, status);
    for note in &status.notes {
        let _ = writeln!(text, "<p>{}</p>", escape(note));
    }
    timeline(&mut text, status, events);
    list(&mut text, events);
    text + "</body></html>\n"
}

fn summary(status: &Status) -> String {
    let all = status.nodes.len();
    let well = status.nodes.iter().filter(|row| row.state == State::Healthy).count();
    let stale = status.nodes.iter().filter(|row| row.is_stale()).count();
    format!("{well} of {all} healthy, {stale} stale")
}

fn nodes(text: &mut String, status: &Status) {
    text.push_str(
        "<div class=\"scroll\"><table><tr><th>node</th><th>role</th><th>VM</th><th>image</th>\
         <th>template</th><th>packages</th><th>K3s</th><th>age</th><th>health</th></tr>\n",
    );
    for row in &status.nodes {
        let class = match row.state {
            State::Healthy if !row.is_stale() => "done",
            State::Unhealthy => "failed",
            _ => "back",
        };
        let image = row.image.as_ref().map_or(String::new(), ToString::to_string);
        let packages = match row.modified.as_deref() {
            None => "",
            Some("") => "as built",
            Some(_) => "modified",
        };
        let modified = escape(row.modified.as_deref().unwrap_or_default());
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td><code>{}</code></td><td>{}</td>\
             <td title=\"{modified}\">{packages}</td><td>{}</td><td>{}</td>\
             <td class=\"{class}\">{}</td></tr>",
            escape(&row.name),
            escape(&row.role),
            row.vmid.map_or(String::new(), |id| format!("{id} on {}", escape(&row.host))),
            escape(&image),
            escape(&row.template),
            escape(&row.k3s),
            row.age.map_or(String::new(), age),
            escape(&health(row)),
        );
    }
    text.push_str("</table></div>\n");
}

fn health(row: &Row) -> String {
    if row.is_stale() { format!("{}, stale", row.health) } else { row.health.clone() }
}

/// One line a node, one mark an event, over the time from the first event to now.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 nodes")]
fn timeline(text: &mut String, status: &Status, events: &[Event]) {
    text.push_str("<h2>Timeline</h2>\n");
    let Some(first) = events.iter().map(|e| e.from).min() else {
        text.push_str("<p>Nothing was done yet.</p>\n");
        return;
    };
    let last = events.iter().filter_map(|e| e.to).chain([status.at]).max().unwrap_or(first);
    let scale = Scale { first, last: last.max(first + 60) };
    let mut names: Vec<&str> = status.nodes.iter().map(|row| row.name.as_str()).collect();
    // What was removed from the file since still has its history.
    let mut gone: Vec<&str> = events.iter().map(|e| e.node.as_str()).collect();
    gone.sort_unstable();
    gone.dedup();
    names.extend(gone.into_iter().filter(|n| status.nodes.iter().all(|row| row.name != *n)));
    let height = LINE * (names.len() + 1) as f64;
    let _ = writeln!(
        text,
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" role=\"img\" \
         aria-label=\"what was done to each node, over time\">"
    );
    for (tick, anchor) in (0..).zip(["start", "middle", "middle", "middle", "end"]) {
        let at = first + (scale.last - first) * tick / 4;
        let (x, y) = (scale.x(at), height - 8.0);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{:.1}\"/><text class=\"tick\" \
             x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            height - LINE,
            moment(at)
        );
    }
    for (number, name) in names.iter().enumerate() {
        let y = LINE * number as f64;
        let _ = writeln!(text, "<text x=\"0\" y=\"{:.1}\">{}</text>", y + 17.0, escape(name));
        for event in events.iter().filter(|e| e.node == *name) {
            mark(text, &scale, event, y);
        }
    }
    text.push_str("</svg></div>\n");
}

fn mark(text: &mut String, scale: &Scale, event: &Event, y: f64) {
    let x = scale.x(event.from);
    let width = (scale.x(event.to.unwrap_or(scale.last)) - x).max(LEAST);
    let _ = writeln!(
        text,
        "<rect class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\" rx=\"3\"><title>\
         {}</title></rect>",
        event.outcome.class(),
        x.min(WIDTH - LEAST),
        y + 4.0,
        escape(&told(event)),
    );
}

struct Scale {
    first: i64,
    last: i64,
}

impl Scale {
    #[expect(clippy::cast_precision_loss, reason = "seconds of a cluster's life")]
    fn x(&self, at: i64) -> f64 {
        let share = (at - self.first) as f64 / (self.last - self.first) as f64;
        NAMES + share.clamp(0.0, 1.0) * (WIDTH - NAMES)
    }
}

fn told(event: &Event) -> String {
    let took = match event.to {
        Some(to) => format!("{} s", to - event.from),
        None => "no end".to_owned(),
    };
    format!("{} {}, {took}, {}: {}", event.what, event.node, event.outcome.word(), event.text)
}

/// The same as a list, the newest first: a picture tells nothing to who cannot see it.
fn list(text: &mut String, events: &[Event]) {
    if events.is_empty() {
        return;
    }
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| std::cmp::Reverse(event.from));
    text.push_str(
        "<h2>History</h2>\n<div class=\"scroll\"><table><tr><th>begun</th><th>what</th><th>node</th>\
         <th>took</th><th>outcome</th><th></th></tr>\n",
    );
    for event in sorted {
        let took = event.to.map_or(String::new(), |to| format!("{} s", to - event.from));
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{took}</td><td class=\"{}\">{}</td><td>{}</td>\
             </tr>",
            moment(event.from),
            escape(&event.what),
            escape(&event.node),
            event.outcome.class(),
            event.outcome.word(),
            escape(&event.text),
        );
    }
    text.push_str("</table></div>\n");
}

/// `2026-11-26 17:20` in UTC.
pub fn moment(at: i64) -> String {
    jiff::Timestamp::from_second(at).map_or_else(
        |_| "?".to_owned(),
        |time| {
            let text = time.to_string();
            text.chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
        },
    )
}

/// Text as text, also inside an attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{of, tests};
    use super::*;

    fn events() -> Vec<Event> {
        let event = |node: &str, from, to, outcome, text: &str| Event {
            node: node.into(),
            what: "rebuild".into(),
            from,
            to,
            outcome,
            text: text.into(),
        };
        vec![
            event("w1", 1_795_000_000, Some(1_795_000_240), Outcome::Done, "worker-1 by me"),
            event("w1", 1_795_050_000, Some(1_795_050_900), Outcome::Back, "<b>&\"'\n"),
            event("gone", 1_795_060_000, None, Outcome::Open, "killed"),
        ]
    }

    #[test]
    fn the_page_is_whole_and_holds_no_foreign_markup() {
        let mut seen = tests::seen();
        seen.notes.push("<script>alert(1)</script>".into());
        let page = page(&of(&tests::project(), &seen), &events());
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        // Nothing is fetched by it.
        for word in ["http:", "https:", "src=", "url(", "@import", "<link"] {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(page.matches("<rect").count(), 3);
        for tag in ["table", "tr", "td", "svg", "div", "rect", "title", "text"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        insta::assert_snapshot!(page);
    }

    #[test]
    fn without_history_there_is_no_picture() {
        let page = page(&of(&tests::project(), &tests::seen()), &[]);
        assert!(page.contains("Nothing was done yet") && !page.contains("<svg"));
    }
}
