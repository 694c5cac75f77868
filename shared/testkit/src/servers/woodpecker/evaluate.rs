//! `evaluate`: the part of its expressions that is about texts.
//!
//! Names are variables, and `nil` when it is not set; `a ?? b`, `==`, `!=`, `contains`,
//! `startsWith`, `endsWith`, `not` (`!`), `and` (`&&`), `or` (`||`) and parentheses. Anything
//! else is an error.

use std::collections::BTreeMap;

/// The value of an expression, which must be true or false.
pub(super) fn evaluate(text: &str, known: &BTreeMap<String, String>) -> Result<bool, String> {
    let unknown = |what: String| format!("this server cannot evaluate `{text}`: {what}");
    let mut reader = Reader { tokens: tokens(text).map_err(unknown)?, at: 0, known };
    let value = reader.any().map_err(unknown)?;
    match (reader.peek(), value) {
        (None, Value::Truth(truth)) => Ok(truth),
        (None, _) => Err(unknown("it is neither true nor false".to_owned())),
        (Some(token), _) => Err(unknown(format!("{token:?} is too much"))),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Nil,
    Text(String),
    Truth(bool),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Text(String),
    /// A name, or an operator.
    Word(String),
}

struct Reader<'a> {
    tokens: Vec<Token>,
    at: usize,
    known: &'a BTreeMap<String, String>,
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => {
                let end = rest[1..].find(first).ok_or("a text without an end")? + 2;
                if rest[..end].contains('\\') {
                    return Err("escapes in texts".to_owned());
                }
                tokens.push(Token::Text(rest[1..end - 1].to_owned()));
                end
            }
            '(' | ')' => 1,
            _ if is_name(first) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            _ => {
                let operators = ["??", "==", "!=", "&&", "||", "!"];
                let operator = operators.iter().find(|it| rest.starts_with(**it));
                operator.ok_or_else(|| format!("{first:?}"))?.len()
            }
        };
        if !matches!(first, '"' | '\'') {
            tokens.push(Token::Word(rest[..length].to_owned()));
        }
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn truth(value: &Value) -> Result<bool, String> {
    match value {
        Value::Truth(truth) => Ok(*truth),
        _ => Err("true or false was expected".to_owned()),
    }
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    /// Goes on past one of these operators, if it is next.
    fn take(&mut self, operators: &[&str]) -> Option<String> {
        match self.peek() {
            Some(Token::Word(word)) if operators.contains(&word.as_str()) => {
                let word = word.clone();
                self.at += 1;
                Some(word)
            }
            _ => None,
        }
    }

    fn any(&mut self) -> Result<Value, String> {
        let mut value = self.all()?;
        while self.take(&["||", "or"]).is_some() {
            let (left, right) = (truth(&value)?, truth(&self.all()?)?);
            value = Value::Truth(left || right);
        }
        Ok(value)
    }

    fn all(&mut self) -> Result<Value, String> {
        let mut value = self.not()?;
        while self.take(&["&&", "and"]).is_some() {
            let (left, right) = (truth(&value)?, truth(&self.not()?)?);
            value = Value::Truth(left && right);
        }
        Ok(value)
    }

    fn not(&mut self) -> Result<Value, String> {
        if self.take(&["!", "not"]).is_some() {
            return Ok(Value::Truth(!truth(&self.not()?)?));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Value, String> {
        let left = self.or_else()?;
        let operators = ["==", "!=", "contains", "startsWith", "endsWith"];
        let Some(operator) = self.take(&operators) else { return Ok(left) };
        let right = self.or_else()?;
        Ok(Value::Truth(match (operator.as_str(), &left, &right) {
            ("==", ..) => left == right,
            ("!=", ..) => left != right,
            ("contains", Value::Text(all), Value::Text(part)) => all.contains(part.as_str()),
            ("startsWith", Value::Text(all), Value::Text(part)) => all.starts_with(part.as_str()),
            ("endsWith", Value::Text(all), Value::Text(part)) => all.ends_with(part.as_str()),
            _ => return Err(format!("`{operator}` is about texts")),
        }))
    }

    fn or_else(&mut self) -> Result<Value, String> {
        let mut value = self.one()?;
        while self.take(&["??"]).is_some() {
            let other = self.one()?;
            value = if value == Value::Nil { other } else { value };
        }
        Ok(value)
    }

    fn one(&mut self) -> Result<Value, String> {
        let token = self.peek().cloned().ok_or("it ends too early")?;
        self.at += 1;
        match token {
            Token::Text(text) => Ok(Value::Text(text)),
            Token::Word(word) if word == "(" => {
                let value = self.any()?;
                self.take(&[")"]).ok_or("`(` without `)`")?;
                Ok(value)
            }
            Token::Word(word) => match word.as_str() {
                "true" => Ok(Value::Truth(true)),
                "false" => Ok(Value::Truth(false)),
                "nil" => Ok(Value::Nil),
                name if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
                    Ok(self.known.get(name).map_or(Value::Nil, |it| Value::Text(it.clone())))
                }
                other => Err(format!("`{other}`")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_about_texts_have_a_value() {
        let known = [("CI_COMMIT_BRANCH", "main"), ("URL", "http://x")];
        let known = known.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (text, value) in [
            (r#"(URL ?? "") != """#, true),
            (r#"(NONE ?? "") != """#, false),
            (r#"CI_COMMIT_BRANCH == "main" && URL startsWith 'http:'"#, true),
            (r#"not (URL contains "y") and !(NONE == "x")"#, true),
            (r#"CI_COMMIT_BRANCH == "next" || NONE != nil"#, false),
        ] {
            assert_eq!(evaluate(text, &known), Ok(value), "{text}");
        }
        for bad in ["", "URL", "(URL == 'x'", "len(URL) > 3", "'a", "URL == 'x' 'y'", "1 == 1"] {
            assert!(evaluate(bad, &known).is_err(), "{bad}");
        }
    }
}
