//! Tables in four forms: for people, and as JSON, YAML and tab-separated text for programs.

use comfy_table::{CellAlignment, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
use serde_json::{Map, Value};

use crate::terminal::{self, Colour};

/// How to show a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table.
    Pretty,
    /// An array of objects.
    Json,
    /// The same in YAML.
    #[value(alias = "yml")]
    Yaml,
    /// A line of names, then one line a row, with tabs between the cells.
    Tsv,
}

/// One column.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    /// Its name for programs.
    pub(crate) name: &'static str,
    /// Its name for people.
    pub(crate) shown: &'static str,
    /// Whether it holds numbers.
    pub(crate) right: bool,
    /// The colour of a cell, by its text.
    pub(crate) colour: fn(&str) -> Option<Colour>,
}

impl Column {
    /// Text, under the same name for everybody.
    pub(crate) const fn text(name: &'static str) -> Column {
        Column { name, shown: name, right: false, colour: |_| None }
    }

    /// Numbers.
    pub(crate) const fn number(name: &'static str) -> Column {
        Column { right: true, ..Column::text(name) }
    }
}

/// One cell: for people, and for programs. An empty text means that there is nothing to say.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) value: Value,
}

impl Cell {
    /// The same for everybody.
    pub(crate) fn text(text: impl Into<String>) -> Cell {
        let text = text.into();
        Cell { value: text.clone().into(), text }
    }

    /// A number, where there is one.
    pub(crate) fn number(number: Option<u64>) -> Cell {
        number.map_or_else(Cell::default, |n| Cell { text: n.to_string(), value: n.into() })
    }
}

/// A table before it has a form.
pub(crate) struct Sheet {
    /// Written over the first rule, for people.
    pub(crate) title: Option<String>,
    /// The columns.
    pub(crate) columns: Vec<Column>,
    /// The rows; each has a cell for every column.
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Lines below it, for people.
    pub(crate) footer: String,
}

/// What the output is shown on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Paper {
    /// Its width in columns; `None`: as wide as it takes.
    pub(crate) width: Option<u16>,
    /// Whether it shows colours.
    pub(crate) colours: bool,
}

impl Paper {
    /// Standard output.
    pub(crate) fn stdout() -> Paper {
        Paper { width: terminal::width(), colours: terminal::shows_colours() }
    }
}

impl Sheet {
    /// The table as text, with a newline at its end.
    pub(crate) fn show(&self, format: Format, paper: Paper) -> String {
        match format {
            Format::Pretty => self.pretty(paper),
            Format::Json => format!("{}\n", self.objects()),
            // Maps of text and numbers have a form in YAML.
            Format::Yaml => serde_saphyr::to_string(&self.objects()).unwrap_or_default(),
            Format::Tsv => self.tsv(),
        }
    }

    fn objects(&self) -> Value {
        let row = |cells: &Vec<Cell>| {
            let pairs = self.columns.iter().zip(cells).filter(|(_, cell)| !cell.text.is_empty());
            Value::Object(
                pairs.map(|(c, cell)| (c.name.to_owned(), cell.value.clone())).collect::<Map<_, _>>(),
            )
        };
        self.rows.iter().map(row).collect()
    }

    fn tsv(&self) -> String {
        // A cell is one field: its lines become a list.
        let field = |text: &str| text.replace('\t', " ").lines().collect::<Vec<_>>().join(", ");
        let line = |fields: Vec<String>| format!("{}\n", fields.join("\t"));
        let header = line(self.columns.iter().map(|c| c.name.to_owned()).collect());
        let rows = self.rows.iter().map(|cells| line(cells.iter().map(|c| field(&c.text)).collect()));
        std::iter::once(header).chain(rows).collect()
    }

    fn pretty(&self, paper: Paper) -> String {
        let mut text = self.draw(None);
        if let Some(width) = paper.width
            && text.lines().any(|line| line.chars().count() > usize::from(width))
        {
            text = self.draw(Some(width));
        }
        if paper.colours {
            text = self.paint(&text);
        }
        if let Some(title) = &self.title {
            text = with_title(&text, title);
        }
        format!("{text}\n{}", self.footer)
    }

    fn draw(&self, width: Option<u16>) -> String {
        let tall = width.is_some() || self.rows.iter().flatten().any(|cell| cell.text.contains('\n'));
        let mut table = table(self.columns.iter().map(|c| c.shown), tall);
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| cell.text.as_str()));
        }
        for (index, _) in self.columns.iter().enumerate().filter(|(_, c)| c.right) {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }

    /// Colours the cells of a table that is drawn already, so that colours cannot change its layout.
    fn paint(&self, table: &str) -> String {
        let painted = table.lines().map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            // A cell with a bar in it is left as it is.
            if cells.len() != self.columns.len() + 2 {
                return line.to_owned();
            }
            let inner = self.columns.iter().zip(&cells[1..]);
            let inner = inner.map(|(column, cell)| match (column.colour)(cell.trim()) {
                Some(colour) => colour.paint(cell),
                None => (*cell).to_owned(),
            });
            format!("|{}|", inner.collect::<Vec<_>>().join("|"))
        });
        painted.collect::<Vec<_>>().join("\n")
    }
}

/// A document of another program in these forms; `pretty` says it for people. Tab-separated, a list of objects is a
/// line for each with the fields of the first, an object a line for each field.
pub(crate) fn document(document: &Value, format: Format, pretty: impl FnOnce(&Value) -> String) -> String {
    let field = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(['\t', '\n'], " "),
        other => other.to_string(),
    };
    match format {
        Format::Pretty => pretty(document),
        Format::Json => format!("{document:#}\n"),
        Format::Yaml => serde_saphyr::to_string(document).unwrap_or_default(),
        Format::Tsv => match document {
            Value::Object(map) => map.iter().map(|(k, v)| format!("{k}\t{}\n", field(v))).collect(),
            other => {
                let rows: Vec<&Map<String, Value>> =
                    other.as_array().into_iter().flatten().filter_map(Value::as_object).collect();
                let names: Vec<&String> = rows.first().into_iter().flat_map(|row| row.keys()).collect();
                let header = names.iter().map(|name| (*name).clone()).collect::<Vec<_>>().join("\t");
                let line = |row: &&Map<String, Value>| {
                    names
                        .iter()
                        .map(|n| row.get(*n).map(field).unwrap_or_default())
                        .collect::<Vec<_>>()
                        .join("\t")
                        + "\n"
                };
                format!("{header}\n{}", rows.iter().map(line).collect::<String>())
            }
        },
    }
}

/// A table in prettytable's look: rules of dashes; between rows only when some are `tall`er than one line.
pub(crate) fn table<'a>(header: impl IntoIterator<Item = &'a str>, tall: bool) -> Table {
    let mut table = Table::new();
    let (rule, cells) = (LineStyle::new('+', '-', '+', '+'), ContentLineStyle::new('|', '|', '|'));
    let style = TableStyle::new().top_border(rule).header_separator(rule).bottom_border(rule);
    let style = style.header_lines(cells).content_lines(cells);
    table.load_style(if tall { style.row_separator(rule) } else { style });
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// The table with `title` written over its first rule.
fn with_title(table: &str, title: &str) -> String {
    let (first, rest) = table.split_once('\n').unwrap_or((table, ""));
    let room = first.chars().count().saturating_sub(2);
    let title: String = title.chars().take(room).collect();
    let rule: String = first.chars().skip(1 + title.chars().count()).collect();
    format!("+{title}{rule}\n{rest}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sheet() -> Sheet {
        let state =
            Column { colour: |text| (text == "down").then_some(Colour::Red), ..Column::text("State") };
        Sheet {
            title: Some(" Title ".to_owned()),
            columns: vec![Column::text("Name"), state, Column::number("Lag")],
            rows: vec![
                vec![Cell::text("pg1"), Cell::text("down"), Cell::number(Some(5))],
                vec![Cell::text("pg2"), Cell::text("a: 1\nb: 2"), Cell::number(None)],
            ],
            footer: " Below\n".to_owned(),
        }
    }

    #[test]
    fn one_table_in_four_forms() {
        let show = |format| sheet().show(format, Paper::default());
        let rows =
            json!([{"Name": "pg1", "State": "down", "Lag": 5}, {"Name": "pg2", "State": "a: 1\nb: 2"}]);
        assert_eq!(serde_json::from_str::<Value>(&show(Format::Json)).expect("is JSON"), rows);
        assert_eq!(serde_saphyr::from_str::<Value>(&show(Format::Yaml)).expect("is YAML"), rows);
        assert_eq!(show(Format::Tsv), "Name\tState\tLag\npg1\tdown\t5\npg2\ta: 1, b: 2\t\n");
        assert_eq!(
            show(Format::Pretty),
            "+ Title -------+-----+\n| Name | State | Lag |\n+------+-------+-----+\n| pg1  | down  |   5 |\n\
             +------+-------+-----+\n| pg2  | a: 1  |     |\n|      | b: 2  |     |\n+------+-------+-----+\n Below\n"
        );
    }

    #[test]
    fn it_fits_the_terminal_and_colours_change_nothing_else() {
        let mut wide = sheet();
        wide.rows[0][1] = Cell::text("one two three four five six seven eight nine");
        let paper = Paper { width: Some(40), colours: false };
        let shown = wide.show(Format::Pretty, paper);
        assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
        let colours = Paper { width: None, colours: true };
        let painted = sheet().show(Format::Pretty, colours);
        assert!(painted.contains("\x1b[31m down  \x1b[0m"), "{painted}");
        let plain = painted.replace("\x1b[31m", "").replace("\x1b[0m", "");
        assert_eq!(plain, sheet().show(Format::Pretty, Paper::default()));
    }
}
