//! `log`.

use pgvane_cluster::settings_file::Spanned;

use super::super::section::{Remarks, Section};
use crate::config::check::{Checked, Problem, Remark, python_level};
use crate::config::raw::RawLog;

pub(super) fn convert(mut section: Section, remarks: &mut Remarks) -> Checked<RawLog> {
    section.pass_over(&["max_queue_size"], "log lines are not queued here", remarks);
    section.pass_over(&["traceback_level"], "this agent has no Python tracebacks", remarks);
    let format = match section.text("type")? {
        None => None,
        Some(text) => match text.get_ref().to_ascii_lowercase().as_str() {
            "plain" => Some(Spanned::new(text.span(), "patroni".to_owned())),
            "json" => Some(Spanned::new(text.span(), "patroni-json".to_owned())),
            _ => {
                let what = format!("log.type: {:?} is not one of plain, json", text.get_ref());
                return Err(Problem { at: Some(text.span()), text: what });
            }
        },
    };
    let level = section.text("level")?;
    let raw = RawLog {
        format,
        level: level_of_all(level, section.section("loggers")?, remarks)?,
        line_format: section.value("format"),
        date_format: section.text("dateformat")?,
        static_fields: section.section("static_fields")?.values(),
        dir: section.file("dir")?,
        file_num: section.number("file_num")?,
        file_size: section.value("file_size"),
        mode: section.value("mode"),
        deduplicate_heartbeats: section.flag("deduplicate_heartbeat_logs")?,
    };
    section.finish(remarks);
    Ok(raw)
}

/// The level, and those of loggers that exist here: `patroni` is the agent.
fn level_of_all(
    level: Option<Spanned<String>>,
    loggers: Section,
    remarks: &mut Remarks,
) -> Checked<Option<Spanned<String>>> {
    let mut directives = Vec::new();
    for (name, level) in loggers.words()? {
        let target = match name.as_str() {
            "patroni" => Some("pgvane_agent".to_owned()),
            ours if ours.starts_with("pgvane") => Some(ours.replace('.', "::")),
            _ => None,
        };
        match (target, python_level(level.get_ref())) {
            (_, None) => {
                let text = format!(
                    "log.loggers.{name}: {:?} is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
                    level.get_ref()
                );
                return Err(Problem { at: Some(level.span()), text });
            }
            (Some(target), Some(level)) => directives.push(format!("{target}={level}")),
            (None, Some(_)) => {
                let text = format!("log.loggers.{name} is ignored: there is no such logger here");
                remarks.push(Remark { at: Some(level.span()), text });
            }
        }
    }
    if directives.is_empty() {
        return Ok(level);
    }
    let (at, base) = match &level {
        Some(level) => (level.span(), python_level(level.get_ref()).unwrap_or(level.get_ref())),
        None => (0..0, "info"),
    };
    directives.insert(0, base.to_owned());
    Ok(Some(Spanned::new(at, directives.join(","))))
}
