//! The table, for a terminal and in Markdown; for programs see `json`.

use std::fmt::Write;

use crate::bench::column::{Column, Measured};
use crate::bench::figures::Figure;
use crate::bench::json::json;
use crate::bench::rows::{GROUPS, Row, Unit};

/// What a form of the table does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Columns of the same width.
    Terminal,
    /// As README quotes it.
    Markdown,
    /// For programs.
    Json,
}

/// The table of all that was measured.
pub(super) fn table(measured: &Measured, form: Form) -> String {
    match form {
        Form::Terminal | Form::Markdown => words(measured, form == Form::Markdown),
        Form::Json => json(measured),
    }
}

fn words(measured: &Measured, markdown: bool) -> String {
    let columns: Vec<_> =
        Column::ALL.into_iter().filter(|it| measured.get(*it).is_some()).collect();
    let mut rows = vec![heading(&columns)];
    for group in &GROUPS {
        let mut shown = group.rows.iter().filter(|row| is_measured(row, measured)).peekable();
        if shown.peek().is_none() {
            continue;
        }
        rows.push(vec![match markdown {
            false => group.heading.to_owned(),
            true => format!("**{}**", group.heading),
        }]);
        rows.extend(shown.map(|row| cells(row, measured, &columns, markdown)));
    }
    let mut text = String::new();
    for (name, version) in &measured.versions {
        let _ = match markdown {
            false => writeln!(text, "{name:<8} {version}"),
            true => writeln!(text, "- {name}: {version}"),
        };
    }
    text.push('\n');
    text += &match markdown {
        false => in_columns(&rows),
        true => in_markdown(&rows),
    };
    text.push('\n');
    text += NOTE;
    text
}

const NOTE: &str = "Guest instructions, medians, of the operation and of what undoes it; the counter's own 3 or 4 \
    are in each. Those of\nrequests are of both processes and of the kernel between them. Memory is in the units that stand \
    with it; 64 GiB are one sample.\nFigures with a * are more than the target. Ratios are to Linux's strict mode on the \
    same unit. What an unmap of ours ends\nis the driver's claim, or the device's access as well: tried, where the device was \
    let write there before and after in the same\nrun. Linux's ends the access: strict at once, lazy later, pass-through and \
    without an IOMMU never. Linux is strict where\nnothing else is said.\n";

fn heading(columns: &[Column]) -> Vec<String> {
    let mut cells = vec!["".to_owned()];
    // Behind the figures is a place for a mark.
    cells.extend(columns.iter().map(|column| format!("{} ", column.heading())));
    cells.extend(["target", "to Linux", "AMD-Vi", "unmap ends"].map(String::from));
    cells
}

fn is_measured(row: &Row, measured: &Measured) -> bool {
    measured.columns().any(|(column, _)| row.figure(measured, column).is_some())
}

fn cells(row: &Row, measured: &Measured, columns: &[Column], sums: bool) -> Vec<String> {
    let mut cells = vec![row.label.to_owned()];
    for column in columns {
        let missed = !column.is_linux() && row.is_met(measured, *column) == Some(false);
        // Digits stand below digits.
        let mark = if missed { "*" } else { " " };
        let figure = row.figure(measured, *column);
        cells.push(
            figure.map_or("- ".into(), |figure| format!("{}{mark}", shown(row, figure, sums))),
        );
    }
    cells.push(row.target.words());
    cells.extend([Column::Vtd, Column::AmdVi].map(|column| {
        row.ratio(measured, column).map_or(String::new(), |ratio| format!("{ratio:.2}"))
    }));
    let tried = if row.is_tried(measured) { ", tried" } else { "" };
    cells.push(format!("{}{tried}", row.revokes.words()));
    cells
}

/// A figure, long ones in thousands: the operation and what undoes it, or their sum where they are not looked at apart.
fn shown(row: &Row, figure: Figure, sums: bool) -> String {
    let short = |number: u64| match number {
        0..1_000_000 => number.to_string(),
        _ => format!("{}k", (number + 500) / 1000),
    };
    let Figure { make, undo, .. } = figure;
    match row.unit {
        Unit::Bytes => return format!("{:.1} MiB", make as f64 / f64::from(1 << 20)),
        Unit::Share => return format!("{:.3} %", make as f64 * 100.0 / undo.max(1) as f64),
        Unit::Instructions => {}
    }
    // What is a part of another row's has nothing that undoes it.
    let is_part = row.label.starts_with(' ');
    match sums && !row.target.is_of_parts() {
        _ if is_part => short(make),
        true => short(make + undo),
        false => format!("{}+{}", short(make), short(undo)),
    }
}

/// Cells below each other, the first and the last to the left. A row of one cell is a heading.
fn in_columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| {
        let of_column = rows.iter().filter(|row| row.len() > 1).filter_map(|row| row.get(at));
        of_column.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        if let [heading] = &row[..] {
            let _ = writeln!(text, "\n{heading}");
            continue;
        }
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match at {
                0 => write!(line, "  {cell:<width$}"),
                _ if at + 1 == count => write!(line, "  {cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn in_markdown(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().map(|cell| cell.trim().replace('*', "\\*"));
        let mut cells: Vec<_> = if row.len() == 1 { row.clone() } else { cells.collect() };
        cells.resize(count, String::new());
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let rules =
                (0..count).map(|at| if at == 0 || at + 1 == count { "---" } else { "---:" });
            let _ = writeln!(text, "| {} |", rules.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Figures;

    fn measured() -> Measured {
        let figures = |lines: &[&str]| {
            Figures::read(&lines.iter().map(|line| line.to_string()).collect::<Vec<_>>())
        };
        let mut measured = Measured::default();
        measured.versions.push(("QEMU", "7.2".into()));
        measured.put(
            Column::Vtd,
            figures(&[
                "bench stream/4k 91 91 42 42",
                "bench copy/64 88 88 6 6",
                "bench tables/apart-4k 8192 8192 4096 4096",
                "bench resident/idle 5767168 5767168 0 0",
            ]),
        );
        measured.put(Column::LinuxVtd, figures(&["bench single/4k 1050 1051 1872 1873"]));
        measured
    }

    fn line<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        let line = text.lines().find(|line| line.trim().starts_with(start)).unwrap();
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn a_row_has_what_was_measured_and_says_what_is_missed() {
        let text = table(&measured(), Form::Terminal);
        let heading = ["Linux VT-d", "ours VT-d", "target", "to Linux", "AMD-Vi", "unmap ends"];
        assert_eq!(line(&text, "Linux VT-d"), heading);
        assert_eq!(line(&text, "4 KiB"), ["4 KiB", "1050+1872", "91+42*", "120", "0.05", "claim"]);
        assert_eq!(line(&text, "writing 64"), ["writing 64 bytes", "-", "88"]);
        assert!(text.starts_with("QEMU     7.2\n"));
        assert_eq!(line(&text, "4 KiB mappings, one")[2], "200.000 %");
        assert_eq!(line(&text, "idle"), ["idle", "-", "5.5 MiB"]);
        // What nobody measured is no row.
        assert!(!text.contains("2 MiB") && !text.contains("by requests"));
    }

    #[test]
    fn all_cells_of_a_column_end_at_the_same_place() {
        let text = table(&measured(), Form::Terminal);
        let ends = |start: &str, cell: &str| {
            let line = text.lines().find(|line| line.trim().starts_with(start)).unwrap();
            line.find(cell).unwrap() + cell.len()
        };
        assert_eq!(ends("Linux VT-d", "Linux VT-d"), ends("4 KiB", "1050+1872"));
        assert_eq!(ends("Linux VT-d", "target"), ends("4 KiB", "120"));
    }

    #[test]
    fn markdown_has_as_many_cells_in_each_row() {
        let text = table(&measured(), Form::Markdown);
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(rows.len() > 3 && rows.iter().all(|row| row.matches(" | ").count() == 6), "{text}");
        assert!(rows.contains(&"| 4 KiB | 2922 | 133\\* | 120 | 0.05 |  | claim |"));
    }
}
