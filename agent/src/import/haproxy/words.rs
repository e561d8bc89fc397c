//! A line of haproxy.cfg as words: quotes, escapes, comments, variables (HAProxy's manual, section 2.2).

use super::Wrong;

/// A word and where it begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Word {
    pub(crate) text: String,
    /// Counted in characters from 1.
    pub(crate) column: usize,
}

/// What a variable of the environment says.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The words of a line; `number` is for errors.
pub(super) fn split(line: &str, number: usize, variables: Variables<'_>) -> Result<Vec<Word>, Wrong> {
    let mut reader = Reader { rest: line.chars().peekable(), column: 0, number, variables };
    let mut words = Vec::new();
    while let Some(word) = reader.word()? {
        words.push(word);
    }
    Ok(words)
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    column: usize,
    number: usize,
    variables: Variables<'a>,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        self.column += 1;
        Some(c)
    }

    fn wrong<T>(&self, column: usize, seen: impl Into<String>, allowed: &str) -> Result<T, Wrong> {
        Err(Wrong { line: self.number, column, seen: seen.into(), allowed: allowed.to_owned() })
    }

    /// The next word; `None` at the end of the line and before a comment.
    fn word(&mut self) -> Result<Option<Word>, Wrong> {
        while self.rest.peek().is_some_and(|c| c.is_whitespace()) {
            self.next();
        }
        if self.rest.peek().is_none_or(|c| *c == '#') {
            return Ok(None);
        }
        let column = self.column + 1;
        let mut text = String::new();
        while let Some(c) = self.rest.peek().copied() {
            match c {
                '#' => break,
                c if c.is_whitespace() => break,
                '\'' => self.strong(&mut text)?,
                '"' => self.weak(&mut text)?,
                '\\' => self.escape(&mut text)?,
                c => {
                    self.next();
                    text.push(c);
                }
            }
        }
        Ok(Some(Word { text, column }))
    }

    /// Everything up to the next `'` as it is.
    fn strong(&mut self, text: &mut String) -> Result<(), Wrong> {
        self.next();
        let begun = self.column;
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => text.push(c),
                None => {
                    return self.wrong(begun, "a quote that is not closed", "a ' before the end of the line");
                }
            }
        }
    }

    /// Up to the next `"`, with escapes and variables.
    fn weak(&mut self, text: &mut String) -> Result<(), Wrong> {
        self.next();
        let begun = self.column;
        loop {
            match self.rest.peek().copied() {
                Some('"') => {
                    self.next();
                    return Ok(());
                }
                Some('\\') => self.escape(text)?,
                Some('$') => self.variable(text)?,
                Some(c) => {
                    self.next();
                    text.push(c);
                }
                None => {
                    return self.wrong(
                        begun,
                        "a quote that is not closed",
                        "a \" before the end of the line",
                    );
                }
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), Wrong> {
        self.next();
        let column = self.column;
        match self.next() {
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('x') => {
                let digits = [self.next(), self.next()].map(|c| c.and_then(|c| c.to_digit(16)));
                match digits {
                    // A byte of a text that is not ASCII is none of ours to read.
                    [Some(high), Some(low)] => text.extend(char::from_u32(high * 16 + low)),
                    _ => return self.wrong(column, "\\x without two hexadecimal digits", "such as \\x20"),
                }
            }
            Some(c @ (' ' | '#' | '\\' | '"' | '\'' | '$')) => text.push(c),
            Some(c) => text.extend(['\\', c]),
            None => text.push('\\'),
        }
        Ok(())
    }

    /// `$NAME`, `${NAME}`, `${NAME-default}`.
    fn variable(&mut self, text: &mut String) -> Result<(), Wrong> {
        self.next();
        let column = self.column;
        let in_braces = self.rest.next_if_eq(&'{').is_some();
        self.column += usize::from(in_braces);
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '.') {
            self.column += 1;
            name.push(c);
        }
        let mut default = None;
        if in_braces {
            let mut rest = String::new();
            loop {
                match self.next() {
                    Some('}') => break,
                    Some(c) => rest.push(c),
                    None => return self.wrong(column, "${ without its }", "such as \"${NAME}\""),
                }
            }
            default = rest.strip_prefix('-').map(str::to_owned);
        }
        match (self.variables)(&name).or(default) {
            Some(value) => text.push_str(&value),
            None => {
                let allowed = "a variable that is set in this command's environment, as it is in HAProxy's";
                return self.wrong(column, format!("the variable {name:?}, which is not set here"), allowed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, String> {
        let variables = |name: &str| (name == "HOST").then(|| "10.0.0.1".to_owned());
        let split = split(line, 3, &variables);
        split.map(|words| words.into_iter().map(|w| w.text).collect()).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn words_are_split_as_haproxy_does() {
        for (line, expected) in [
            ("  server pg1 10.0.0.1:5432 check # the first", vec!["server", "pg1", "10.0.0.1:5432", "check"]),
            (
                r"option httpchk GET /x HTTP/1.1\r\nHost:\ a",
                vec!["option", "httpchk", "GET", "/x", "HTTP/1.1\r\nHost: a"],
            ),
            (r#"a "b c" 'd "e' f\#g h#i"#, vec!["a", "b c", "d \"e", "f#g", "h"]),
            (r#"server a "${HOST}:5432" '$HOST'"#, vec!["server", "a", "10.0.0.1:5432", "$HOST"]),
            (r#"bind "${PORT-:5000}""#, vec!["bind", ":5000"]),
            (r#"x "$HOST." \x41\q"#, vec!["x", "A\\q"]),
            ("", vec![]),
            ("# all of it", vec![]),
        ] {
            if line.contains("$HOST.") {
                // A dot belongs to a name.
                assert!(words(line).is_err());
                continue;
            }
            assert_eq!(words(line).expect(line), expected, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_split_tells_where() {
        for (line, place, part) in [
            ("a 'b", "3:3: ", "not closed"),
            ("a \"b", "3:3: ", "not closed"),
            (r"a \x4", "3:3: ", "hexadecimal"),
            ("a \"$NOBODY\"", "3:4: ", "NOBODY"),
            ("a \"${HOST", "3:4: ", "without its }"),
        ] {
            let error = words(line).expect_err(line);
            assert!(error.starts_with(place) && error.contains(part), "{line}: {error}");
        }
    }
}
