//! `synchronous_standby_names`: what it promises, read as PostgreSQL reads it and written as Patroni writes it.

use std::collections::BTreeMap;
use std::fmt;

/// The name that no standby may have: waiting for it lets nothing be acknowledged (contract 8.8).
pub const PLACEHOLDER: &str = "__patroni_strict_sync_replica_placeholder__";

/// Names of standbys. They compare without case, as in PostgreSQL, and are shown as they were given.
#[derive(Clone, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// Whether `name` is one of them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(&name.to_ascii_lowercase())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// Those of both.
    #[must_use]
    pub fn and(&self, other: &Names) -> Names {
        self.iter().filter(|name| other.contains(name)).collect()
    }

    /// Those of either.
    #[must_use]
    pub fn or(&self, other: &Names) -> Names {
        other.iter().chain(self.iter()).collect()
    }

    /// Those of `self` that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Names) -> Names {
        self.iter().filter(|name| !other.contains(name)).collect()
    }

    /// Whether all of `self` are in `other`.
    pub fn is_within(&self, other: &Names) -> bool {
        self.0.keys().all(|name| other.0.contains_key(name))
    }

    /// Comma separated and sorted, as the key `sync` has them; `None` for nobody.
    pub fn to_list(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.iter().collect::<Vec<_>>().join(","))
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Names) -> bool {
        self.0.keys().eq(other.0.keys())
    }
}

impl Eq for Names {}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Names {
        Names(names.into_iter().map(|name| (name.to_ascii_lowercase(), name.to_owned())).collect())
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Which of the named standbys count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// The first connected ones of the list (`FIRST`).
    First,
    /// Any of them (`ANY`).
    Any,
}

/// A value of `synchronous_standby_names`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyNames {
    /// Which of the named count.
    pub method: Method,
    /// How many must confirm a commit.
    pub needed: usize,
    /// The named.
    pub of: Names,
    /// Whether `*` is among them: every standby counts, known or not.
    pub anybody: bool,
}

impl StandbyNames {
    /// Nobody is waited for.
    pub fn nobody(method: Method) -> StandbyNames {
        StandbyNames { method, needed: 0, of: Names::default(), anybody: false }
    }

    /// All of `names` must confirm.
    pub fn all(names: Names) -> StandbyNames {
        StandbyNames { method: Method::First, needed: names.len(), of: names, anybody: false }
    }

    /// `needed` of `names` must confirm.
    pub fn any(needed: usize, names: Names) -> StandbyNames {
        StandbyNames { method: Method::Any, needed, of: names, anybody: false }
    }

    /// Nothing is acknowledged while this is in force.
    pub fn placeholder(method: Method) -> StandbyNames {
        let of = [PLACEHOLDER].into_iter().collect();
        StandbyNames { method, needed: 1, of, anybody: false }
    }

    /// Whether commits wait at all.
    pub fn waits(&self) -> bool {
        self.needed > 0 && (self.anybody || !self.of.is_empty())
    }

    /// Whether both mean the same to the server and to whoever reads the value.
    pub fn is_like(&self, other: &StandbyNames) -> bool {
        self == other || !(self.waits() || other.waits())
    }

    /// How many of the named have surely confirmed what was acknowledged. `*` says nothing of anybody known.
    pub fn guarantee(&self) -> usize {
        if self.anybody { 0 } else { self.needed.min(self.of.len()) }
    }

    /// Reads a value that a server has in force. What its grammar does not allow promises nothing.
    pub fn parse(text: &str) -> StandbyNames {
        let tokens = tokens(text);
        if tokens.as_ref().is_some_and(Vec::is_empty) {
            return StandbyNames::nobody(Method::First);
        }
        tokens.and_then(|tokens| from_tokens(&tokens)).unwrap_or_else(|| StandbyNames {
            method: Method::First,
            needed: 1,
            of: Names::default(),
            anybody: true,
        })
    }
}

/// As Patroni writes it: `a`, `2 (a,b)`, `ANY 1 (a,b)`.
impl fmt::Display for StandbyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.waits() {
            return Ok(());
        }
        let all = if self.anybody {
            "*".to_owned()
        } else {
            self.of.iter().map(quoted).collect::<Vec<_>>().join(",")
        };
        match self.method {
            Method::First if self.needed == 1 && (self.anybody || self.of.len() == 1) => f.write_str(&all),
            Method::First => write!(f, "{} ({all})", self.needed),
            Method::Any => write!(f, "ANY {} ({all})", self.needed),
        }
    }
}

fn quoted(name: &str) -> String {
    let mut letters = name.chars();
    let is_plain = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
        && !["first", "any"].iter().any(|word| name.eq_ignore_ascii_case(word));
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// A bare word or number.
    Word(String),
    /// A name in quotes: never a keyword.
    Quoted(String),
    Open,
    Close,
    Comma,
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let found = match first {
            '(' => Some((Token::Open, 1)),
            ')' => Some((Token::Close, 1)),
            ',' => Some((Token::Comma, 1)),
            '*' => Some((Token::Word("*".to_owned()), 1)),
            '"' => quoted_token(rest),
            _ => {
                let is_part = |c: char| c.is_ascii_alphanumeric() || "_$".contains(c) || !c.is_ascii();
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                (end > 0).then(|| (Token::Word(rest[..end].to_owned()), end))
            }
        };
        let (token, length) = found?;
        all.push(token);
        rest = rest[length..].trim_start();
    }
    Some(all)
}

fn quoted_token(text: &str) -> Option<(Token, usize)> {
    let mut name = String::new();
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = letters.next() {
        if c != '"' {
            name.push(c);
        } else if letters.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            return Some((Token::Quoted(name), at + 1));
        }
    }
    None
}

fn from_tokens(tokens: &[Token]) -> Option<StandbyNames> {
    let number = |token: &Token| match token {
        Token::Word(word) => word.parse::<usize>().ok(),
        Token::Quoted(_) | Token::Open | Token::Close | Token::Comma => None,
    };
    let is_word = |token: &Token, word: &str| matches!(token, Token::Word(w) if w.eq_ignore_ascii_case(word));
    let (method, needed, list) = match tokens {
        [any, count, Token::Open, list @ .., Token::Close] if is_word(any, "any") => {
            (Method::Any, number(count)?, list)
        }
        [first, count, Token::Open, list @ .., Token::Close] if is_word(first, "first") => {
            (Method::First, number(count)?, list)
        }
        [count, Token::Open, list @ .., Token::Close] => (Method::First, number(count)?, list),
        list => (Method::First, 1, list),
    };
    let mut names = Vec::new();
    for (place, token) in list.iter().enumerate() {
        match token {
            Token::Word(name) | Token::Quoted(name) if place % 2 == 0 => names.push(name.as_str()),
            Token::Comma if place % 2 == 1 => {}
            Token::Word(_) | Token::Quoted(_) | Token::Open | Token::Close | Token::Comma => return None,
        }
    }
    let anybody = names.contains(&"*");
    (list.len() % 2 == 1 && needed > 0).then(|| StandbyNames {
        method,
        needed,
        of: names.into_iter().filter(|name| *name != "*").collect(),
        anybody,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(list: &[&str]) -> Names {
        list.iter().copied().collect()
    }

    #[test]
    fn values_are_written_as_patroni_writes_them() {
        let text = |value: StandbyNames| value.to_string();
        assert_eq!(text(StandbyNames::nobody(Method::First)), "");
        assert_eq!(text(StandbyNames::all(names(&["pg1"]))), "pg1");
        assert_eq!(text(StandbyNames::all(names(&["pg2", "pg-1"]))), "2 (\"pg-1\",pg2)");
        assert_eq!(text(StandbyNames::any(1, names(&["b", "a"]))), "ANY 1 (a,b)");
        assert_eq!(
            text(StandbyNames::any(1, names(&["Any", "9", "x\"y"]))),
            "ANY 1 (\"9\",\"Any\",\"x\"\"y\")"
        );
        assert_eq!(text(StandbyNames::placeholder(Method::First)), PLACEHOLDER);
        assert_eq!(text(StandbyNames::placeholder(Method::Any)), format!("ANY 1 ({PLACEHOLDER})"));
        assert_eq!(text(StandbyNames::parse("*")), "*");
    }

    #[test]
    fn values_are_read_as_postgresql_reads_them() {
        let read = StandbyNames::parse;
        assert_eq!(read(""), StandbyNames::nobody(Method::First));
        assert_eq!(read(" pg1 "), StandbyNames::all(names(&["PG1"])));
        assert_eq!(read("first 2 (a, \"b c\")"), StandbyNames::all(names(&["a", "b c"])));
        assert_eq!(read("any 1(a,7)"), StandbyNames::any(1, names(&["a", "7"])));
        let one_of_two = StandbyNames { needed: 1, ..StandbyNames::all(names(&["a", "b"])) };
        assert_eq!(read("a,b"), one_of_two, "one name after the other, and the first connected counts");
        assert_eq!((one_of_two.guarantee(), one_of_two.waits()), (1, true));
    }

    #[test]
    fn what_names_everybody_or_nobody_we_know_promises_nothing() {
        for text in ["*", "ANY 1 (*)", "2 (a,*)", "\"*\"", "(", "a b", "0 (a)", "2 a", "\"open", "a,", "🦀 ("]
        {
            let read = StandbyNames::parse(text);
            assert_eq!((read.guarantee(), read.anybody), (0, true), "{text}");
        }
        assert!(StandbyNames::parse("3 (a,b)").waits());
        assert_eq!(StandbyNames::parse("3 (a,b)").guarantee(), 2, "nothing is ever acknowledged");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,40}") {
            let _ = StandbyNames::parse(&text);
        }

        #[test]
        fn what_is_written_is_read_back(
            list in proptest::collection::btree_set("[a-zA-Z0-9_ \"$*-]{1,6}", 1..4), any in any::<bool>(), one in any::<bool>(),
        ) {
            let list: Names = list.iter().map(String::as_str).filter(|name| *name != "*").collect();
            prop_assume!(!list.is_empty());
            let needed = if one { 1 } else { list.len() };
            let value = if any { StandbyNames::any(needed, list) } else { StandbyNames::all(list) };
            prop_assert_eq!(StandbyNames::parse(&value.to_string()), value);
        }
    }
}
