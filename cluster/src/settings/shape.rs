//! How values of the document may be written, for its schema: more loosely than in a settings file of ours, since
//! Patroni and people write them too.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Declares a type that has nothing but a schema.
macro_rules! shape {
    ($(#[$doc:meta])* $name:ident = $schema:tt) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

shape! {
    /// A number of seconds, or text with a unit.
    Seconds = { "type": ["number", "string"], "minimum": 0, "x-kind": "duration" }
}
shape! {
    /// A number of bytes, or text with a unit.
    Bytes = { "type": ["integer", "string"], "x-kind": "size" }
}
shape! {
    /// true, false, or a word for it.
    Flag = { "type": ["boolean", "string", "integer"], "x-kind": "boolean" }
}
shape! {
    /// A whole number, or text that is one.
    Count = { "type": ["integer", "string"], "x-kind": "number" }
}
shape! {
    /// Text or a number.
    Text = { "type": ["string", "number"], "x-kind": "text" }
}
shape! {
    /// Parameters by name.
    Parameters = {
        "type": "object",
        "additionalProperties": { "type": ["string", "number", "boolean"] }
    }
}
shape! {
    /// A word, or true and false.
    Mode = { "enum": ["off", "on", "quorum", true, false], "x-kind": "`off`, `on`, `quorum`" }
}
shape! {
    /// Slots by name.
    Slots = {
        "type": "object",
        "x-kind": "table",
        "additionalProperties": {
            "type": ["object", "null"],
            "properties": {
                "type": { "enum": ["physical", "logical"] },
                "database": { "type": "string" },
                "plugin": { "type": "string" },
                "cluster_type": { "enum": ["primary", "standby"] }
            }
        }
    }
}
shape! {
    /// What is agreed on by slots that are left alone.
    Matchers = {
        "type": "array",
        "x-kind": "list",
        "items": {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "name": { "type": "string" },
                "type": { "enum": ["physical", "logical"] },
                "database": { "type": "string" },
                "plugin": { "type": "string" }
            }
        }
    }
}
