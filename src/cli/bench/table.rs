//! Tables as Markdown, CSV, JSON and JSON lines. Markdown is rounded; the other formats have every figure.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::cli::bench::args::Format;

/// A cell and its column.
#[derive(Clone, Debug)]
pub(super) struct Field {
    key: &'static str,
    /// Column title in Markdown. If it is empty, Markdown omits the column.
    title: &'static str,
    value: Value,
    shown: String,
}

/// Cells in column order.
#[derive(Clone, Debug, Default)]
pub(super) struct Row(Vec<Field>);

impl Row {
    fn with(mut self, key: &'static str, title: &'static str, value: Value, shown: String) -> Row {
        self.0.push(Field { key, title, value, shown });
        self
    }

    pub(super) fn text(self, key: &'static str, title: &'static str, text: &str) -> Row {
        self.with(key, title, json!(text), text.to_owned())
    }

    pub(super) fn count(self, key: &'static str, title: &'static str, n: usize) -> Row {
        self.with(key, title, json!(n), n.to_string())
    }

    pub(super) fn number(self, key: &'static str, title: &'static str, value: f64, decimals: usize) -> Row {
        self.with(key, title, json!(value), format!("{value:.decimals$}"))
    }

    pub(super) fn percent(self, key: &'static str, title: &'static str, share: f64, decimals: usize) -> Row {
        self.with(key, title, json!(share), format!("{:.decimals$}%", share * 100.0))
    }

    /// Adds a cell that Markdown omits.
    pub(super) fn hidden(self, key: &'static str, value: impl Serialize) -> Row {
        let value = serde_json::to_value(value).expect("numbers, texts and lists of them");
        self.with(key, "", value, String::new())
    }

    /// Replaces the Markdown text of the last cell.
    pub(super) fn shown(mut self, text: String) -> Row {
        if let Some(field) = self.0.last_mut() {
            field.shown = text;
        }
        self
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|field| (field.key, &field.value)))
    }
}

/// Rows with the same columns.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) rows: Vec<Row>,
}

/// A row, preceded by the setup of the run.
#[derive(Serialize)]
struct Record<'a, T: Serialize> {
    #[serde(flatten)]
    setup: &'a Row,
    #[serde(flatten)]
    row: T,
}

/// A row as one line of JSON.
pub(super) fn json_line(setup: &Row, row: impl Serialize) -> String {
    let mut line = serde_json::to_string(&Record { setup, row }).expect("numbers, texts and lists of them");
    line.push('\n');
    line
}

/// Serializes tables as a map from name to rows.
struct ByName<'a>(&'a [Table]);

impl Serialize for ByName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|table| (table.name, &table.rows)))
    }
}

/// Formats the tables of a run; `heading` is the setup in words. With several tables, JSON lines name their table, and
/// CSV separates tables by an empty line.
pub(super) fn format_tables(format: Format, heading: &str, setup: &Row, tables: &[Table]) -> String {
    let filled = tables.iter().filter(|table| !table.rows.is_empty());
    match format {
        Format::Md => filled.fold(format!("{heading}\n"), |out, table| out + "\n" + &markdown(&table.rows)),
        Format::Csv => filled.map(|table| csv(setup, &table.rows)).collect::<Vec<_>>().join("\n"),
        Format::Json => json_line(setup, ByName(tables)),
        Format::Jsonl if tables.len() == 1 => tables[0].rows.iter().map(|row| json_line(setup, row)).collect(),
        Format::Jsonl => {
            let line = |name, row: &Row| {
                let named = Row::default().text("table", "", name).0.into_iter().chain(row.0.clone());
                json_line(setup, Row(named.collect()))
            };
            filled.flat_map(|table| table.rows.iter().map(move |row| line(table.name, row))).collect()
        }
    }
}

/// A Markdown table; numbers are right-aligned.
fn markdown(rows: &[Row]) -> String {
    let columns = |row: &Row| row.0.iter().filter(|field| !field.title.is_empty()).cloned().collect::<Vec<_>>();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let first = columns(&rows[0]);
    let mut out = line(first.iter().map(|field| field.title.to_owned()).collect());
    let rule = first.iter().map(|field| if field.value.is_string() { "---" } else { "---:" });
    out += &format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
    for row in rows {
        out += &line(columns(row).into_iter().map(|field| escaped(&field.shown)).collect());
    }
    out
}

/// Escapes a cell: no line breaks, no unescaped `|`.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', "\\n")
}

/// CSV as in RFC 4180; lists are JSON.
fn csv(setup: &Row, rows: &[Row]) -> String {
    let line = |cells: Vec<String>| cells.join(",") + "\n";
    let all = |row: &Row| setup.0.iter().chain(&row.0).cloned().collect::<Vec<_>>();
    let header = all(&rows[0]).iter().map(|field| field.key.to_owned()).collect();
    let cell = |field: Field| match field.value {
        Value::String(text) => quoted(&text),
        Value::Null => String::new(),
        value => quoted(&value.to_string()),
    };
    rows.iter().fold(line(header), |out, row| out + &line(all(row).into_iter().map(cell).collect()))
}

fn quoted(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(format: Format) -> String {
        let setup = Row::default().text("model", "", "a, b").count("n_threads", "", 2);
        let row = |kind: &str, speed: f64| {
            let row = Row::default().text("kind", "kind", kind).number("speed", "speed-up", speed, 2);
            row.shown(format!("{speed:.2} ± 0")).hidden("samples_ms", [1.5, 2.0])
        };
        let table = Table { name: "one", rows: vec![row("a|b", 1.0 / 3.0), row("say \"x\"\n", f64::NAN)] };
        let other = Table { name: "two", rows: vec![Row::default().percent("share", "share", 0.125, 1)] };
        format_tables(format, "in words", &setup, &[table, other, Table { name: "three", rows: Vec::new() }])
    }

    #[test]
    fn markdown_is_for_people() {
        let expected = "in words\n\n| kind | speed-up |\n|---|---:|\n| a\\|b | 0.33 ± 0 |\n\
                        | say \"x\"\\n | NaN ± 0 |\n\n| share |\n|---:|\n| 12.5% |\n";
        assert_eq!(tables(Format::Md), expected);
    }

    #[test]
    fn csv_quotes_what_must_be() {
        let expected = "model,n_threads,kind,speed,samples_ms\n\"a, b\",2,a|b,0.3333333333333333,\"[1.5,2.0]\"\n\
                        \"a, b\",2,\"say \"\"x\"\"\n\",,\"[1.5,2.0]\"\n\nmodel,n_threads,share\n\"a, b\",2,0.125\n";
        assert_eq!(tables(Format::Csv), expected);
    }

    #[test]
    fn json_carries_every_figure() {
        let all: Value = serde_json::from_str(&tables(Format::Json)).unwrap();
        assert_eq!((&all["n_threads"], &all["one"][0]["samples_ms"]), (&json!(2), &json!([1.5, 2.0])));
        assert_eq!((&all["one"][1]["speed"], &all["three"]), (&Value::Null, &json!([])));
        let lines = tables(Format::Jsonl);
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            (&lines[2]["table"], &lines[2]["share"], &lines[2]["model"]),
            (&json!("two"), &json!(0.125), &json!("a, b"))
        );
    }
}
