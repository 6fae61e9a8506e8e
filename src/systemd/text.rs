//! GVariant's text format, as far as properties of a unit need it: booleans, numbers, strings, and arrays of these
//! (GLib's "GVariant Text Format").

use crate::dbus::Value;

/// Types that a value may be given, by keyword.
const KEYWORDS: [(&str, &str); 8] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
];

/// The value of the whole of `text`; why not, in words.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text };
    let value = parser.value()?;
    parser.blank();
    if parser.rest.is_empty() { Ok(value) } else { Err(format!("{:?} is left over", parser.rest)) }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, what: char) -> bool {
        self.blank();
        let rest = self.rest.strip_prefix(what);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// A value with or without its type before it.
    fn value(&mut self) -> Result<Value, String> {
        self.blank();
        if let Some(rest) = self.rest.strip_prefix('@') {
            self.rest = rest;
            let code = self.word();
            let element = code.strip_prefix('a').unwrap_or(code);
            if !KEYWORDS.iter().any(|(_, known)| *known == element) {
                return Err(format!("the type {code:?} is not supported"));
            }
            return if element == code { self.simple(Some(code)) } else { self.array(Some(element)) };
        }
        if self.rest.starts_with('[') { self.array(None) } else { self.simple(None) }
    }

    /// A value that is no array, of the type `wanted`; without one, of the type that it looks like.
    fn simple(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        self.blank();
        let mut wanted = wanted;
        let whole = self.rest;
        let mut word = self.word();
        if let Some((_, code)) = KEYWORDS.iter().find(|(keyword, _)| *keyword == word) {
            if wanted.is_some_and(|wanted| wanted != *code) {
                return Err(format!("{word} where another type is wanted"));
            }
            wanted = Some(code);
            self.blank();
            word = self.word();
        }
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) if word.is_empty() && wanted.is_none_or(|wanted| wanted == "s") => {
                self.string(quote)
            }
            _ if word.is_empty() => Err(format!("{whole:?} begins no value")),
            _ => scalar(word, wanted),
        }
    }

    fn string(&mut self, quote: char) -> Result<Value, String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            let c = match c {
                c if c == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Ok(Value::Str(text));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, 't')) => '\t',
                    Some((_, c @ ('\'' | '"' | '\\'))) => c,
                    _ => return Err("only \\n, \\t, \\\\, \\' and \\\" are supported after a backslash".into()),
                },
                '\0' => return Err("a string holds a NUL".into()),
                c => c,
            };
            text.push(c);
        }
        Err("a string has no end".into())
    }

    fn array(&mut self, element: Option<&str>) -> Result<Value, String> {
        if !self.eat('[') {
            return Err("an array begins with [".into());
        }
        let mut element = element.map(str::to_owned);
        let mut values = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return Err("the elements of an array are separated by commas".into());
            }
            let value = self.simple(element.as_deref())?;
            element = Some(value.signature());
            values.push(value);
        }
        match element {
            Some(element) => Ok(Value::Array(element, values)),
            None => Err("an empty array needs its type, as in @as []".into()),
        }
    }
}

fn scalar(word: &str, wanted: Option<&str>) -> Result<Value, String> {
    let code = wanted.unwrap_or(match word {
        "true" | "false" => "b",
        _ if word.contains('.') => "d",
        _ => "i",
    });
    let value = match code {
        "b" => word.parse().ok().map(Value::Bool),
        "y" => integer(word).map(Value::Byte),
        "i" => integer(word).map(Value::Int32),
        "u" => integer(word).map(Value::Uint32),
        "x" => integer(word).map(Value::Int64),
        "t" => integer(word).map(Value::Uint64),
        "d" => word.parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Double),
        _ => None,
    };
    value.ok_or_else(|| format!("{word:?} is no value of the type {code}"))
}

/// Decimal, or hexadecimal with `0x`.
fn integer<T: TryFrom<i128>>(word: &str) -> Option<T> {
    let (digits, negative) = word.strip_prefix('-').map_or((word, false), |digits| (digits, true));
    let value = match digits.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok()?,
        None => digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()?,
    };
    T::try_from(if negative { -i128::from(value) } else { value.into() }).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(values: &[&str]) -> Value {
        Value::Array("s".into(), values.iter().map(|value| Value::from(*value)).collect())
    }

    #[test]
    fn values_have_the_type_that_they_are_given_or_look_like() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("'inactive-or-failed'", "inactive-or-failed".into()),
            ("\"it's\"", "it's".into()),
            (r"'it\'s \\'", r"it's \".into()),
            ("5", Value::Int32(5)),
            ("-5", Value::Int32(-5)),
            ("uint32 5", Value::Uint32(5)),
            ("uint64 123456789", Value::Uint64(123_456_789)),
            ("int64 -0x10", Value::Int64(-16)),
            ("@t 5", Value::Uint64(5)),
            (" 1.5 ", Value::Double(1.5)),
            ("double 2", Value::Double(2.0)),
            ("['a.service', 'b.service']", strings(&["a.service", "b.service"])),
            ("@as []", strings(&[])),
            ("@as ['x']", strings(&["x"])),
            ("@ay [0x01, 2]", Value::Array("y".into(), vec![Value::Byte(1), Value::Byte(2)])),
            ("[uint32 1, 2]", Value::Array("u".into(), vec![Value::Uint32(1), Value::Uint32(2)])),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "x",
            "'a",
            "[",
            "[]",
            "['a'",
            "['a' 'b']",
            "['a', 1]",
            "[['a']]",
            "5 6",
            "uint32 -1",
            "int32 3000000000",
            "5000000000",
            "@v 5",
            "@aas []",
            "uint64 'a'",
            "@s 5",
            "(1, 2)",
            "{'a': 1}",
            "<5>",
            "nan",
            "double inf",
            "'\\x'",
            "+5",
            "['a',]",
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "[\\[\\]@astux0-9'\"\\\\ ,.\u{e9}-]{0,20}") {
            let _ = parse(&text);
        }
    }
}
