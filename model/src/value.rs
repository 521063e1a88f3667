//! Values as TLA+ has them, and their text: what a state is rendered to, and what TLC's output is read into.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A TLA+ value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// `TRUE` or `FALSE`.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A string.
    Str(String),
    /// A model value: `s1`, `Nil`.
    Model(String),
    /// `{a, b}`.
    Set(BTreeSet<Value>),
    /// `<<a, b>>`; the function without arguments is the empty one.
    Seq(Vec<Value>),
    /// `[field |-> a]`.
    Record(BTreeMap<String, Value>),
    /// `(a :> b @@ c :> d)`.
    Function(BTreeMap<Value, Value>),
}

impl Value {
    /// A string.
    #[must_use]
    pub fn str(text: &str) -> Self {
        Self::Str(text.to_string())
    }

    /// A number.
    #[must_use]
    pub fn int(number: u64) -> Self {
        Self::Int(i64::try_from(number).expect("the numbers of a model are small"))
    }

    /// A record of these fields.
    #[must_use]
    pub fn record<const N: usize>(fields: [(&str, Self); N]) -> Self {
        Self::Record(fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
    }

    /// A function; without arguments it is the empty sequence, as TLC has it.
    pub fn function(pairs: impl IntoIterator<Item = (Self, Self)>) -> Self {
        let pairs: BTreeMap<_, _> = pairs.into_iter().collect();
        if pairs.is_empty() { Self::Seq(Vec::new()) } else { Self::Function(pairs) }
    }

    /// Reads one value.
    ///
    /// # Errors
    /// What was expected, and what stood there.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parser = Parser { rest: text };
        let value = parser.value()?;
        parser.skip_blanks();
        if parser.rest.is_empty() { Ok(value) } else { Err(parser.error("the end of the value")) }
    }

    /// Reads a state as TLC prints it: `/\ name = value` for each variable.
    ///
    /// # Errors
    /// What was expected, and what stood there.
    pub fn parse_state(text: &str) -> Result<BTreeMap<String, Self>, ParseError> {
        let mut parser = Parser { rest: text };
        let mut variables = BTreeMap::new();
        loop {
            parser.skip_blanks();
            if parser.rest.is_empty() {
                return Ok(variables);
            }
            // A state of one variable comes without the conjunction.
            let _ = parser.take("/\\");
            let name = parser.word()?;
            parser.expect("=")?;
            variables.insert(name, parser.value()?);
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list(f: &mut fmt::Formatter<'_>, ends: [&str; 2], items: impl Iterator<Item = String>) -> fmt::Result {
            write!(f, "{}{}{}", ends[0], items.collect::<Vec<_>>().join(", "), ends[1])
        }
        match self {
            Self::Bool(true) => f.write_str("TRUE"),
            Self::Bool(false) => f.write_str("FALSE"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Str(text) => write!(f, "\"{text}\""),
            Self::Model(name) => f.write_str(name),
            Self::Set(items) => list(f, ["{", "}"], items.iter().map(ToString::to_string)),
            Self::Seq(items) => list(f, ["<<", ">>"], items.iter().map(ToString::to_string)),
            Self::Record(fields) => {
                list(f, ["[", "]"], fields.iter().map(|(name, value)| format!("{name} |-> {value}")))
            }
            Self::Function(pairs) => {
                let pairs = pairs.iter().map(|(argument, value)| format!("{argument} :> {value}"));
                write!(f, "({})", pairs.collect::<Vec<_>>().join(" @@ "))
            }
        }
    }
}

/// A text that is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub struct ParseError {
    expected: &'static str,
    found: String,
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn error(&self, expected: &'static str) -> ParseError {
        ParseError { expected, found: self.rest.chars().take(40).collect() }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &'static str) -> Result<(), ParseError> {
        if self.take(token) { Ok(()) } else { Err(self.error(token)) }
    }

    fn word(&mut self) -> Result<String, ParseError> {
        self.skip_blanks();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.error("a name"));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word.to_string())
    }

    /// Items separated by `separator` up to `close`.
    fn list<T>(
        &mut self,
        separator: &'static str,
        close: &'static str,
        item: impl Fn(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut items = Vec::new();
        if self.take(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.take(close) {
                return Ok(items);
            }
            self.expect(separator)?;
        }
    }

    fn value(&mut self) -> Result<Value, ParseError> {
        self.skip_blanks();
        if self.take("<<") {
            return Ok(Value::Seq(self.list(",", ">>", Self::value)?));
        }
        if self.take("{") {
            return Ok(Value::Set(self.list(",", "}", Self::value)?.into_iter().collect()));
        }
        if self.take("[") {
            let field = |parser: &mut Self| {
                let name = parser.word()?;
                parser.expect("|->")?;
                Ok((name, parser.value()?))
            };
            return Ok(Value::Record(self.list(",", "]", field)?.into_iter().collect()));
        }
        if self.take("(") {
            let pair = |parser: &mut Self| {
                let argument = parser.value()?;
                parser.expect(":>")?;
                Ok((argument, parser.value()?))
            };
            return Ok(Value::Function(self.list("@@", ")", pair)?.into_iter().collect()));
        }
        if self.take("\"") {
            let (text, rest) = self.rest.split_once('"').ok_or_else(|| self.error("the end of a string"))?;
            let text = text.to_string();
            self.rest = rest;
            return Ok(Value::Str(text));
        }
        let negative = self.take("-");
        let word = self.word()?;
        match (word.as_str(), word.parse::<i64>()) {
            (_, Ok(number)) => Ok(Value::Int(if negative { -number } else { number })),
            ("TRUE", _) => Ok(Value::Bool(true)),
            ("FALSE", _) => Ok(Value::Bool(false)),
            _ => Ok(Value::Model(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_from_its_text() {
        let text = "[a |-> {1, 2}, b |-> <<TRUE, \"x y\">>, c |-> (s1 :> Nil @@ s2 :> <<>>), d |-> {}]";
        let value = Value::parse(text).expect("a value");
        assert_eq!(value.to_string(), text);
        assert_eq!(Value::parse(&value.to_string()), Ok(value));
    }

    #[test]
    fn a_state_is_its_variables() {
        let state = Value::parse_state("/\\ x = << >>\n/\\ y = (s1 :> -3 @@\n  s2 :> 4)\n").expect("a state");
        assert_eq!(state["x"], Value::Seq(Vec::new()));
        assert_eq!(state["y"].to_string(), "(s1 :> -3 @@ s2 :> 4)");
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        for text in ["", "{1", "[a 1]", "<<1 2>>", "1 2", "\"x"] {
            assert!(Value::parse(text).is_err(), "{text}");
        }
    }
}
