//! A value that knows where in its file it stands.

use std::any::TypeId;
use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// [`toml::Spanned`], which has a schema: that of the value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Spanned<T>(toml::Spanned<T>);

impl<T> Spanned<T> {
    /// A value that stands at `at`, in bytes from the beginning of the file.
    pub fn new(at: Range<usize>, value: T) -> Spanned<T> {
        Spanned(toml::Spanned::new(at, value))
    }

    /// Where it stands.
    pub fn span(&self) -> Range<usize> {
        self.0.span()
    }

    /// The value.
    pub fn get_ref(&self) -> &T {
        self.0.get_ref()
    }

    /// The value, to change it.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }

    /// The value alone.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

/// Paths are text like any other to schemars; whoever reads the schema wants to know.
impl<T: JsonSchema + 'static> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        if is_path::<T>() { "Path".into() } else { T::schema_id() }
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        if is_path::<T>() {
            schema.insert(super::KIND.to_owned(), "path".into());
        }
        schema
    }
}

fn is_path<T: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<PathBuf>()
}
