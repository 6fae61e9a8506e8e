//! Values as D-Bus messages carry them (D-Bus Specification, "Type System" and "Marshaling").
//!
//! Of the specification's types those are left out that nothing here sends or hears: 16-bit integers, dictionaries and
//! file descriptors.

use std::fmt;

/// Types nest this deep at most.
const DEPTH: usize = 32;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `i`
    Int32(i32),
    /// `u`
    Uint32(u32),
    /// `x`
    Int64(i64),
    /// `t`
    Uint64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Str(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `a`: the elements' signature, and the elements.
    Array(String, Vec<Value>),
    /// `(...)`
    Struct(Vec<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl Value {
    /// Its type.
    pub fn signature(&self) -> String {
        let code = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::Int32(_) => "i",
            Self::Uint32(_) => "u",
            Self::Int64(_) => "x",
            Self::Uint64(_) => "t",
            Self::Double(_) => "d",
            Self::Str(_) => "s",
            Self::Path(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(fields) => return format!("({})", signature(fields)),
        };
        code.to_owned()
    }

    /// The text of a string or an object path.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Path(text) => Some(text),
            _ => None,
        }
    }

    /// Appends it, little-endian, to a message or a body, which both begin at a multiple of 8.
    ///
    /// Strings hold no NUL, and no array is longer than 64 MiB: the caller sees to it.
    pub fn write(&self, out: &mut Vec<u8>) {
        pad(out, alignment(self.signature().as_bytes()));
        match self {
            Self::Byte(value) => out.push(*value),
            Self::Bool(value) => out.extend(u32::from(*value).to_le_bytes()),
            Self::Int32(value) => out.extend(value.to_le_bytes()),
            Self::Uint32(value) => out.extend(value.to_le_bytes()),
            Self::Int64(value) => out.extend(value.to_le_bytes()),
            Self::Uint64(value) => out.extend(value.to_le_bytes()),
            Self::Double(value) => out.extend(value.to_le_bytes()),
            Self::Str(text) | Self::Path(text) => {
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
                out.push(0);
            }
            Self::Signature(text) => write_signature(text, out),
            Self::Array(element, values) => write_array(element, values, out),
            Self::Struct(fields) => fields.iter().for_each(|field| field.write(out)),
            Self::Variant(value) => {
                write_signature(&value.signature(), out);
                value.write(out);
            }
        }
    }
}

/// As people write them: `infinity` is systemd's word for the greatest number.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, values: &[Value]| {
            values.iter().enumerate().try_for_each(|(index, value)| {
                f.write_str(if index == 0 { "" } else { " " })?;
                value.fmt(f)
            })
        };
        match self {
            Self::Byte(value) => write!(f, "{value:#04x}"),
            Self::Bool(value) => value.fmt(f),
            Self::Int32(value) => value.fmt(f),
            Self::Uint32(value) => value.fmt(f),
            Self::Int64(value) => value.fmt(f),
            Self::Uint64(u64::MAX) => f.write_str("infinity"),
            Self::Uint64(value) => value.fmt(f),
            Self::Double(value) => value.fmt(f),
            Self::Str(text) | Self::Path(text) | Self::Signature(text) => write!(f, "{text:?}"),
            Self::Array(_, values) | Self::Struct(values) => {
                f.write_str("[")?;
                list(f, values)?;
                f.write_str("]")
            }
            Self::Variant(value) => value.fmt(f),
        }
    }
}

/// The signature of several values in a row, as that of a message's body.
pub fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// What a value's first byte is a multiple of, by the first code of its type.
fn alignment(signature: &[u8]) -> usize {
    match signature.first() {
        Some(b'x' | b't' | b'd' | b'(') => 8,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        _ => 1,
    }
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn write_signature(text: &str, out: &mut Vec<u8>) {
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
    out.push(0);
}

/// The length counts the elements, and not the padding before the first of them, which is there even when there is none.
fn write_array(element: &str, values: &[Value], out: &mut Vec<u8>) {
    let length = out.len();
    out.extend([0; 4]);
    pad(out, alignment(element.as_bytes()));
    let start = out.len();
    values.iter().for_each(|value| value.write(out));
    let bytes = (out.len() - start) as u32;
    out[length..length + 4].copy_from_slice(&bytes.to_le_bytes());
}

/// The first complete type of a signature, and the rest.
fn first(signature: &str, depth: usize) -> Option<(&str, &str)> {
    if depth > DEPTH {
        return None;
    }
    let end = match signature.as_bytes().first()? {
        b'y' | b'b' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'v' => 1,
        b'a' => 1 + first(&signature[1..], depth + 1)?.0.len(),
        b'(' => {
            let mut rest = &signature[1..];
            while !rest.starts_with(')') {
                rest = first(rest, depth + 1)?.1;
            }
            signature.len() - rest.len() + 1
        }
        _ => return None,
    };
    // A struct without fields is none.
    (end != 2 || !signature.starts_with("()")).then(|| signature.split_at(end))
}

/// Reads values from a message or a body. Whatever does not follow the specification is None.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which begin at a multiple of 8 of their message.
    pub fn new(bytes: &'a [u8], big_endian: bool) -> Self {
        Self { bytes, at: 0, big_endian }
    }

    /// How many bytes have been read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// One value of each type of `signature`.
    pub fn values(&mut self, signature: &str) -> Option<Vec<Value>> {
        self.several(signature, 0)
    }

    fn several(&mut self, mut signature: &str, depth: usize) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (one, rest) = first(signature, depth)?;
            values.push(self.value(one, depth)?);
            signature = rest;
        }
        Some(values)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    /// Passes over padding, which is zero.
    fn align(&mut self, alignment: usize) -> Option<()> {
        let padding = self.at.next_multiple_of(alignment) - self.at;
        self.take(padding)?.iter().all(|byte| *byte == 0).then_some(())
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes: [u8; N] = self.take(N)?.try_into().ok()?;
        if self.big_endian {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn length(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.number()?) as usize)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        (self.take(1)? == [0] && !text.contains('\0')).then_some(text)
    }

    fn value(&mut self, signature: &str, depth: usize) -> Option<Value> {
        if depth > DEPTH {
            return None;
        }
        self.align(alignment(signature.as_bytes()))?;
        Some(match signature.as_bytes().first()? {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(match u32::from_le_bytes(self.number()?) {
                0 => false,
                1 => true,
                _ => return None,
            }),
            b'i' => Value::Int32(i32::from_le_bytes(self.number()?)),
            b'u' => Value::Uint32(u32::from_le_bytes(self.number()?)),
            b'x' => Value::Int64(i64::from_le_bytes(self.number()?)),
            b't' => Value::Uint64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.number()?)),
            b's' => Value::Str(self.length().and_then(|length| self.text(length))?),
            b'o' => Value::Path(self.length().and_then(|length| self.text(length))?),
            b'g' => Value::Signature(self.short_text()?),
            b'v' => {
                let signature = self.short_text()?;
                let (one, rest) = first(&signature, depth)?;
                Value::Variant(Box::new(self.value(one, depth + 1).filter(|_| rest.is_empty())?))
            }
            b'a' => self.array(&signature[1..], depth + 1)?,
            _ => Value::Struct(self.several(&signature[1..signature.len() - 1], depth + 1)?),
        })
    }

    fn short_text(&mut self) -> Option<String> {
        let length = self.take(1)?[0];
        self.text(length.into())
    }

    fn array(&mut self, element: &str, depth: usize) -> Option<Value> {
        let length = self.length()?;
        self.align(alignment(element.as_bytes()))?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(element, depth)?);
        }
        (self.at == end).then(|| Value::Array(element.to_owned(), values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(values: &[Value]) -> Vec<u8> {
        let mut out = Vec::new();
        values.iter().for_each(|value| value.write(&mut out));
        out
    }

    #[test]
    fn numbers_stand_at_multiples_of_their_size() {
        let values = [Value::Byte(1), Value::Uint32(2), Value::Byte(3), Value::Uint64(4), Value::Bool(true)];
        let expected = [&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0][..], &[4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]];
        assert_eq!(bytes(&values), expected.concat());
    }

    #[test]
    fn strings_end_in_nul_and_signatures_have_a_short_length() {
        let values = [Value::Byte(9), "ab".into(), Value::Signature("as".into())];
        assert_eq!(bytes(&values), b"\x09\0\0\0\x02\0\0\0ab\0\x02as\0");
    }

    /// "a(sv)" as StartTransientUnit takes it: the length leaves out the padding before the first struct.
    #[test]
    fn an_array_of_structs() {
        let property = |name: &str, value| Value::Struct(vec![name.into(), Value::Variant(Box::new(value))]);
        let values = [
            Value::Uint32(7),
            Value::Array("(sv)".into(), vec![property("Ab", Value::Bool(true)), property("C", Value::Uint64(5))]),
        ];
        let expected = [
            &b"\x07\0\0\0\x28\0\0\0"[..],
            b"\x02\0\0\0Ab\0\x01b\0\0\0\x01\0\0\0",
            b"\x01\0\0\0C\0\x01t\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
        ];
        assert_eq!(bytes(&values), expected.concat());
    }

    #[test]
    fn an_empty_array_is_padded_all_the_same() {
        let values = [Value::Uint64(1), Value::Array("(sa(sv))".into(), Vec::new()), Value::Byte(5)];
        assert_eq!(bytes(&values), b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05");
    }

    #[test]
    fn the_other_byte_order_is_read() {
        let big = b"\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x01\0";
        assert_eq!(Reader::new(big, true).values("su"), Some(vec!["ab".into(), Value::Uint32(0)]));
        assert_eq!(Reader::new(b"\0\0\0\x05", true).values("u"), Some(vec![Value::Uint32(5)]));
    }

    #[test]
    fn what_does_not_follow_the_specification_is_refused() {
        for (bytes, signature) in [
            (&b"\x02\0\0\0"[..], "b"),
            (b"\x01\0\0\0ab", "s"),
            (b"\x01\0\0\0\0\0", "s"),
            (b"\x01\0\0\0\xff\0", "s"),
            (b"\x01\x01\0\0\x01\0\0\0", "yu"),
            (b"\xff\xff\xff\xff", "ay"),
            (b"\x05\0\0\0\0\0\0\0\0\0\0\0", "au"),
            (b"\x02yy\0\0\0", "v"),
            (b"", "()"),
            (b"", "(y"),
            (b"", "a"),
            (b"", "z"),
        ] {
            assert_eq!(Reader::new(bytes, false).values(signature), None, "{bytes:?} {signature}");
        }
        let deep = "a".repeat(100) + "y";
        assert_eq!(Reader::new(&[0; 4], false).values(&deep), None);
    }

    /// A value of some type, and others of the same one: what an array needs.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::Byte),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(Value::Int32),
            any::<u32>().prop_map(Value::Uint32),
            any::<i64>().prop_map(Value::Int64),
            any::<u64>().prop_map(Value::Uint64),
            any::<i32>().prop_map(|value| Value::Double(value.into())),
            "[^\0]{0,9}".prop_map(Value::Str),
            "(/[a-z]{1,4}){1,3}".prop_map(Value::Path),
            "[ybsu]{0,5}".prop_map(Value::Signature),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                (inner.clone(), 0..4usize)
                    .prop_map(|(value, count)| Value::Array(value.signature(), vec![value; count])),
                proptest::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
                inner.prop_map(|value| Value::Variant(Box::new(value))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(list in proptest::collection::vec(values(), 0..5)) {
            let written = bytes(&list);
            let mut reader = Reader::new(&written, false);
            prop_assert_eq!(reader.values(&signature(&list)), Some(list));
            prop_assert_eq!(reader.at(), written.len());
        }

        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), signature in "[ybiuxtdsogav()]{0,8}", big: bool) {
            let _ = Reader::new(&bytes, big).values(&signature);
        }
    }
}
