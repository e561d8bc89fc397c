//! `version`: of this program, and of every member's agent and PostgreSQL.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::members::MembersArgs;
use crate::output::{Cell, Column, Format, Paper, Sheet};
use crate::target::Target;
use crate::{Failed, list, say};

const ANSWER_WITHIN: Duration = Duration::from_secs(3);

pub(crate) async fn show(target: &Target, which: &MembersArgs, format: Format) -> Result<(), Failed> {
    let view = target.view().await?;
    let mut rows = Vec::new();
    for name in which.choose(&view)? {
        let record = &view.members[&name].record;
        let status = match &record.api_url {
            Some(url) => {
                tokio::time::timeout(ANSWER_WITHIN, target.agents.request(Method::GET, url, None)).await
            }
            None => Ok(Err("it tells no address of its REST API".to_owned())),
        };
        let status = status.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_WITHIN:?}")));
        let (body, note) = match status {
            Ok(answer) => (serde_json::from_slice(&answer.body).unwrap_or(Value::Null), String::new()),
            Err(why) => (Value::Null, why),
        };
        let patroni = body["patroni"]["version"].as_str().or(record.version.as_deref()).unwrap_or_default();
        let agent = match body["pgvane"]["version"]
            .as_str()
            .or_else(|| Some(record.pgvane.as_ref()?.version.as_str()))
        {
            Some(version) => format!("pgvane {version} (speaks Patroni {patroni})"),
            None => format!("Patroni {patroni}"),
        };
        let server = body["server_version"].as_u64().map(server_version).unwrap_or_default();
        rows.push([name.as_str(), &agent, &server, &note].map(Cell::text).to_vec());
    }
    rows.sort_by(|a, b| a[0].text.cmp(&b[0].text));
    let columns = ["Member", "Agent", "PostgreSQL", "Note"].map(Column::text).to_vec();
    let sheet =
        Sheet { title: Some(list::title(&view, &target.scope)), columns, rows, footer: String::new() };
    if format == Format::Pretty {
        say(&format!("pgvanectl {}\n", env!("CARGO_PKG_VERSION")))?;
    }
    say(&sheet.show(format, Paper::stdout()))
}

/// `150006` as `15.6`; before version 10 there was a number more.
fn server_version(number: u64) -> String {
    if number >= 100_000 {
        format!("{}.{}", number / 10_000, number % 10_000)
    } else {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_versions_read_as_people_write_them() {
        assert_eq!(
            (server_version(150_006), server_version(90_624)),
            ("15.6".to_owned(), "9.6.24".to_owned())
        );
    }
}
