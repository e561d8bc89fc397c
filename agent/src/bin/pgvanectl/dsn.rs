//! `dsn` and `query`: where a member's PostgreSQL is, and a question to it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::members::{MembersArgs, Role};
use crate::output::{Cell, Column, Format, Paper, Sheet};
use crate::target::Target;
use crate::{Failed, fail, say};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// One member.
#[derive(Args)]
pub(crate) struct MemberArgs {
    /// By name.
    #[arg(short, long)]
    member: Option<String>,
    /// By role; the leader where neither is given.
    #[arg(short, long, value_enum, conflicts_with = "member")]
    role: Option<Role>,
}

impl MemberArgs {
    fn choose(self, view: &ClusterView) -> Result<(NodeName, String, u16), Failed> {
        let role = if self.member.is_none() { self.role.or(Some(Role::Leader)) } else { None };
        let which = MembersArgs { members: self.member.into_iter().collect(), role };
        let addressed = which.choose(view)?.into_iter().find_map(|name| {
            let (host, port) = view.members.get(&name)?.record.postgres_address()?;
            Some((name, host, port))
        });
        addressed.map_or_else(|| fail("no such member tells its address"), Ok)
    }
}

pub(crate) async fn dsn(target: &Target, which: MemberArgs) -> Result<(), Failed> {
    let (_, host, port) = which.choose(&target.view().await?)?;
    say(&format!("host={host} port={port}\n"))
}

/// What `query` takes.
#[derive(Args)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    which: MemberArgs,
    /// SQL to run; what it answers is printed.
    #[arg(long, value_name = "SQL", required_unless_present = "file")]
    command: Option<String>,
    /// A file with SQL to run.
    #[arg(long, value_name = "FILE", conflicts_with = "command")]
    file: Option<PathBuf>,
    /// Who to be; the agent's superuser where its settings are at hand, else $PGUSER. A password comes from the
    /// settings, or from $PGPASSWORD.
    #[arg(short = 'U', long = "db-user", value_name = "NAME")]
    db_user: Option<String>,
    /// The database.
    #[arg(short, long, default_value = "postgres")]
    dbname: String,
    /// Again every so many seconds, until interrupted.
    #[arg(short, long, value_name = "SECONDS")]
    watch: Option<u64>,
    /// How to show rows.
    #[arg(short, long, value_enum, default_value = "tsv")]
    format: Format,
}

pub(crate) async fn query(target: &Target, args: QueryArgs) -> Result<(), Failed> {
    let sql = match (&args.command, &args.file) {
        (Some(sql), _) => sql.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map_err(|e| Failed(format!("{}: {e}", file.display())))?
        }
        (None, None) => return fail("--command or --file is needed"),
    };
    let (name, host, port) = args.which.choose(&target.view().await?)?;
    let known = target
        .superuser
        .as_ref()
        .filter(|role| args.db_user.as_ref().is_none_or(|user| *user == role.username));
    let user = args.db_user.clone().or_else(|| known.map(|role| role.username.clone()));
    let user = user.or_else(|| std::env::var("PGUSER").ok()).unwrap_or_else(|| "postgres".to_owned());
    let mut config = tokio_postgres::Config::new();
    config.host(&host).port(port).user(&user).dbname(&args.dbname).application_name("pgvanectl");
    config.connect_timeout(CONNECT_WITHIN);
    let given = std::env::var("PGPASSWORD").ok();
    if let Some(password) = given.or_else(|| Some(known?.password.as_ref()?.expose().to_owned())) {
        config.password(password);
    }
    let said = |e: tokio_postgres::Error| {
        let source = std::error::Error::source(&e).map(|why| format!(": {why}")).unwrap_or_default();
        let text = e.as_db_error().map_or_else(|| format!("{e}{source}"), ToString::to_string);
        Failed(format!("{name} ({host}:{port}) as {user}: {text}"))
    };
    let (client, driver) = config.connect(NoTls).await.map_err(said)?;
    tokio::spawn(driver);
    loop {
        let answer = client.simple_query(&sql).await.map_err(said)?;
        for sheet in sheets(&answer) {
            say(&sheet.show(args.format, Paper::stdout()))?;
        }
        let Some(seconds) = args.watch else { return Ok(()) };
        tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
    }
}

/// One table for each statement that answers rows.
fn sheets(answer: &[SimpleQueryMessage]) -> Vec<Sheet> {
    let mut sheets: Vec<Sheet> = Vec::new();
    for message in answer {
        match message {
            SimpleQueryMessage::RowDescription(columns) => sheets.push(Sheet {
                title: None,
                // The names live as long as the program: there are as many as the operator's query has.
                columns: columns.iter().map(|c| Column::text(c.name().to_owned().leak())).collect(),
                rows: vec![],
                footer: String::new(),
            }),
            SimpleQueryMessage::Row(row) => {
                if let Some(sheet) = sheets.last_mut() {
                    sheet.rows.push(
                        (0..row.len()).map(|i| row.get(i).map(Cell::text).unwrap_or_default()).collect(),
                    );
                }
            }
            _ => {}
        }
    }
    sheets
}
