//! What was measured, for programs.
//!
//! `versions` is what it was measured with. `columns` is each machine's figures by the names that its guest gives them. `rows`
//! is the table: the `unit` of its figures, of each column the medians `make` and `undo`, `target` in words, `met` of each column
//! of ours that a target is for, and `ratio` of both to Linux's strict mode on the same unit.

use serde_json::{Map, Value, json};

use crate::bench::column::{Column, Measured};
use crate::bench::figures::Figure;
use crate::bench::rows::{GROUPS, Row};

/// One object, on many lines.
pub(super) fn json(measured: &Measured) -> String {
    let versions: Map<_, _> =
        measured.versions.iter().map(|(name, it)| ((*name).to_owned(), json!(it))).collect();
    let columns: Map<_, _> = measured
        .columns()
        .map(|(column, figures)| {
            let figures: Map<_, _> =
                figures.iter().map(|(name, it)| (name.to_owned(), figure(it))).collect();
            (column.name().to_owned(), figures.into())
        })
        .collect();
    let rows = GROUPS
        .iter()
        .flat_map(|group| group.rows.iter().map(|row| self::row(measured, group.heading, row)));
    let rows: Vec<_> = rows.collect();
    format!("{:#}\n", json!({ "versions": versions, "columns": columns, "rows": rows }))
}

fn figure(figure: Figure) -> Value {
    let Figure { make, make_mean, undo, undo_mean } = figure;
    json!({ "make": make, "make_mean": make_mean, "undo": undo, "undo_mean": undo_mean })
}

fn row(measured: &Measured, group: &str, row: &Row) -> Value {
    let of_columns: Map<_, _> = Column::ALL
        .into_iter()
        .filter_map(|it| Some((it.name().to_owned(), figure(row.figure(measured, it)?))))
        .collect();
    let met: Map<_, _> = [Column::Vtd, Column::AmdVi]
        .into_iter()
        .filter_map(|it| Some((it.name().to_owned(), row.is_met(measured, it)?.into())))
        .collect();
    let ratios: Map<_, _> = [Column::Vtd, Column::AmdVi]
        .into_iter()
        .filter_map(|it| Some((it.name().to_owned(), row.ratio(measured, it)?.into())))
        .collect();
    json!({
        "group": group,
        "operation": row.label.trim(),
        "name": row.ours,
        "unit": row.unit.name(),
        "figures": of_columns,
        "target": row.target.words(),
        "met": met,
        "ratio": ratios,
        "unmap_ends": row.revokes.words(),
        "tried": row.is_tried(measured),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Figures;

    #[test]
    fn rows_and_columns_are_there_by_name() {
        let mut measured = Measured::default();
        measured.versions.push(("QEMU", "7.2".into()));
        measured.put(Column::Vtd, Figures::read(&["bench stream/4k 91 92 42 43".to_owned()]));
        let linux = Figures::read(&["bench single/4k 200 200 66 66".to_owned()]);
        measured.put(Column::LinuxVtd, linux);
        let value: Value = serde_json::from_str(&json(&measured)).unwrap();
        assert_eq!(value["versions"]["QEMU"], "7.2");
        assert_eq!(value["columns"]["vtd"]["stream/4k"]["undo_mean"], 43);
        let rows = value["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == "stream/4k").unwrap();
        assert_eq!((&row["met"]["vtd"], &row["ratio"]), (&json!(false), &json!({ "vtd": 0.5 })));
        assert_eq!(row["figures"]["vtd"]["make"], 91);
    }
}
