//! The roles of a new cluster. Passwords pass through statements that no log shows.

use super::{Instance, PostgresError, probe};
use crate::config::{NewUser, Role, Secret};

/// What keeps statements out of every log; and a cluster that waits for a standby is not waited for.
const QUIETLY: &str = "SET synchronous_commit = local; SET statement_timeout = 0;
    SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_duration_sample = -1;
    SET log_min_error_statement = 'panic'; SET log_duration = off;
    SET pg_stat_statements.track_utility = off; SET pgaudit.log = 'none'";

/// Sets the superuser's password; `server` is how it is reached now, without one.
pub(super) async fn set_superuser(server: &Instance, role: &Role) -> Result<(), PostgresError> {
    let Some(password) = &role.password else { return Ok(()) };
    let sql = format!("ALTER ROLE {} PASSWORD {}", ident(&role.username), literal(password.expose()));
    perform(server, &[sql]).await
}

/// Creates the other roles, or gives those that a backup held their options and passwords.
pub(super) async fn create(server: &Instance, wanted: &Instance) -> Result<(), PostgresError> {
    perform(server, &statements(wanted)).await
}

async fn perform(server: &Instance, statements: &[String]) -> Result<(), PostgresError> {
    let client = probe::connect(server).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    client.batch_execute(QUIETLY).await?;
    for sql in statements {
        client.batch_execute(sql).await?;
    }
    Ok(())
}

/// The roles beside the superuser.
fn statements(instance: &Instance) -> Vec<String> {
    let mut statements = Vec::new();
    let superuser = &instance.superuser.username;
    let role = |role: &Role, options: &str| ensure(&role.username, role.password.as_ref(), options);
    if instance.replication.username != *superuser {
        statements.push(role(&instance.replication, "REPLICATION"));
    }
    let rewind = &instance.rewind;
    if rewind.username != *superuser {
        if rewind.username != instance.replication.username {
            statements.push(role(rewind, ""));
        }
        let name = ident(&rewind.username);
        for function in [
            "pg_ls_dir(text, boolean, boolean)",
            "pg_stat_file(text, boolean)",
            "pg_read_binary_file(text)",
            "pg_read_binary_file(text, bigint, bigint, boolean)",
        ] {
            statements.push(format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name}"));
        }
    }
    let ours = [superuser, &instance.replication.username, &rewind.username];
    let listed = |user: &NewUser| ensure(&user.name, user.password.as_ref(), &user.options.join(" "));
    statements.extend(instance.users.iter().filter(|user| !ours.contains(&&user.name)).map(listed));
    statements
}

/// Creates a role, or changes it where it is there.
fn ensure(name: &str, password: Option<&Secret>, options: &str) -> String {
    let password = password.map_or(String::new(), |p| format!(" PASSWORD {}", literal(p.expose())));
    let login = if options.split(' ').any(|option| option == "NOLOGIN") { "" } else { "LOGIN " };
    let (role, options) = (ident(name), format!("{login}{options}{password}"));
    let body = format!(
        "BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {}) \
         THEN ALTER ROLE {role} WITH {options}; ELSE CREATE ROLE {role} WITH {options}; END IF; END",
        literal(name)
    );
    format!("DO {}", literal(&body))
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::settings::tests::instance;

    #[test]
    fn roles_are_quoted() {
        let mut i = instance(std::path::Path::new("/x"));
        i.replication.password = Some(Secret::new("p:w'd\\"));
        let all = statements(&i);
        let expected = concat!(
            r"DO E'BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = ''rep'') ",
            r#"THEN ALTER ROLE "rep" WITH LOGIN REPLICATION PASSWORD E''p:w''''d\\\\''; "#,
            r#"ELSE CREATE ROLE "rep" WITH LOGIN REPLICATION PASSWORD E''p:w''''d\\\\''; END IF; END'"#
        );
        assert_eq!(all[0], expected);
        assert!(
            all.iter().any(|s| s.ends_with(r#"pg_ls_dir(text, boolean, boolean) TO "rewind""#)),
            "{all:?}"
        );
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        // PostgreSQL takes no option together with its opposite.
        let group = ensure("group", None, "CREATEDB NOLOGIN");
        assert!(group.contains("\"group\" WITH CREATEDB NOLOGIN;"), "{group}");
    }

    #[test]
    fn a_listed_user_is_not_one_of_ours() {
        let mut i = instance(std::path::Path::new("/x"));
        let user = |name: &str| NewUser {
            name: name.to_owned(),
            password: None,
            options: vec!["CREATEDB".to_owned()],
        };
        i.users = vec![user("rewind"), user("app")];
        let all = statements(&i);
        let created =
            |name: &str| all.iter().filter(|s| s.contains(&format!("CREATE ROLE \"{name}\""))).count();
        assert_eq!((created("rewind"), created("app")), (1, 1), "{all:?}");
        assert!(all.last().is_some_and(|s| s.contains("LOGIN CREATEDB")), "{all:?}");
    }
}
