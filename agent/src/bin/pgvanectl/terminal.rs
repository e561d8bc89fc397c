//! What standard output can show.

use std::io::IsTerminal;

/// A colour, as a terminal is told (ECMA-48, SGR).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Colour {
    Red,
    Green,
    Yellow,
    Bold,
}

impl Colour {
    /// `text` in this colour.
    pub(crate) fn paint(self, text: &str) -> String {
        let code = match self {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Bold => 1,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Its width in columns; `None` where it is no terminal.
pub(crate) fn width() -> Option<u16> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(out).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

/// Whether colours are shown: on a terminal, unless NO_COLOR is set (no-color.org) or it is a dumb one.
pub(crate) fn shows_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}
