//! The status as a table for people.

use std::fmt::Write as _;

use super::{Row, State, Status};
use crate::ui::Ui;

const HEAD: [&str; 10] =
    ["NODE", "ROLE", "VM", "IMAGE", "CURRENT", "TEMPLATE", "MODIFIED", "K3S", "AGE", "HEALTH"];

/// One line a node, then the notes.
pub fn table(status: &Status, ui: &Ui) -> String {
    let lines: Vec<[String; 10]> = status.nodes.iter().map(cells).collect();
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    let mut print = |cells: &[String], colour: Option<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        let line = line.trim_end();
        let _ = match colour {
            Some(colour) => writeln!(text, "{}", ui.paint(colour, line)),
            None => writeln!(text, "{line}"),
        };
    };
    print(&HEAD.map(str::to_owned), Some("1"));
    for (row, cells) in status.nodes.iter().zip(&lines) {
        let colour = match row.state {
            State::Unhealthy => Some("31"),
            _ if row.is_stale() => Some("33"),
            _ => None,
        };
        print(cells, colour);
    }
    for note in &status.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

fn cells(row: &Row) -> [String; 10] {
    let or = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    [
        row.name.clone(),
        or(&row.role),
        row.vmid.map_or("-".to_owned(), |id| id.to_string()),
        row.image.as_ref().map_or("-".to_owned(), ToString::to_string),
        row.current.map_or("?".to_owned(), yes),
        or(&row.template),
        row.modified.as_ref().map_or("?".to_owned(), |text| yes(!text.is_empty())),
        or(&row.k3s),
        row.age.map_or("-".to_owned(), age),
        row.health.clone(),
    ]
}

/// The largest unit of which there are two: `47h`, `3d`.
pub fn age(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let found = units.iter().find(|(size, _)| seconds >= 2 * size);
    found.map_or_else(|| format!("{seconds}s"), |(size, unit)| format!("{}{unit}", seconds / size))
}

#[cfg(test)]
mod tests {
    use super::super::{of, tests};
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_node() {
        let status = of(&tests::project(), &tests::seen());
        insta::assert_snapshot!(table(&status, &Ui::new(true)));
    }

    #[test]
    fn an_age_has_at_least_two_of_its_unit() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7199, "119m"),
            (172_800, "2d"),
            (169_200, "47h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
