//! `cargo xtask docs`: writes what in docs and packaging is made of the code.

use crate::programs::cargo;

/// Set where the tests that compare those files shall write them.
pub const WRITE: &str = "PGVANE_WRITE_DOCS";

/// Has the tests write their files.
pub fn run() -> Result<(), String> {
    let mut tests = cargo();
    tests.args(["test", "--locked", "--package", "pgvane", "--test", "configuration"]).env(WRITE, "1");
    let status = tests.status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("the files were written, but something else is wrong".to_owned())
    }
}
