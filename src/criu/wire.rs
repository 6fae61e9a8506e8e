//! The wire format of protocol buffers, as far as criu's messages need it: varints and strings of bytes
//! (protobuf.dev, "Encoding").

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// A message that is being written.
#[derive(Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// As it is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds the fields of another one.
    pub fn extend(&mut self, other: &Message) {
        self.0.extend_from_slice(&other.0);
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, kind: u8) {
        self.varint(u64::from(field) << 3 | u64::from(kind));
    }

    /// A number, an enumeration's value, or (0 and 1) a boolean. A negative one goes as its 64 bits.
    pub fn number(&mut self, field: u32, value: impl Into<i64>) {
        self.key(field, VARINT);
        self.varint(value.into() as u64);
    }

    /// A string.
    pub fn text(&mut self, field: u32, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.key(field, BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message in this one.
    pub fn message(&mut self, field: u32, value: &Message) {
        self.text(field, value.bytes());
    }
}

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number or a boolean.
    Number(u64),
    /// A string, or a message.
    Bytes(&'a [u8]),
    /// A form that none of the fields that are read has.
    Other,
}

/// The fields of a message in their order. None: the bytes are no message.
pub fn fields(mut bytes: &[u8]) -> Option<Vec<(u32, Value<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match (key & 7) as u8 {
            VARINT => Value::Number(take_varint(&mut bytes)?),
            BYTES => {
                let length = take_varint(&mut bytes)?;
                Value::Bytes(take(&mut bytes, usize::try_from(length).ok()?)?)
            }
            FIXED64 => take(&mut bytes, 8).map(|_| Value::Other)?,
            FIXED32 => take(&mut bytes, 4).map(|_| Value::Other)?,
            _ => return None,
        };
        fields.push((u32::try_from(key >> 3).ok()?, value));
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_bytes_of_the_specification() {
        let mut inner = Message::default();
        inner.number(1, 150);
        assert_eq!(inner.bytes(), [0x08, 0x96, 0x01]);
        let mut outer = Message::default();
        outer.message(3, &inner);
        outer.text(2, "testing");
        outer.number(64, -1);
        let ones = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(outer.bytes(), [b"\x1a\x03\x08\x96\x01\x12\x07testing\x80\x04".as_slice(), &ones].concat());
        let read = fields(outer.bytes()).unwrap();
        let wanted = [(3, Value::Bytes(inner.bytes())), (2, Value::Bytes(b"testing")), (64, Value::Number(u64::MAX))];
        assert_eq!(read, wanted);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in
            [&b"\x08"[..], b"\x12\x05abc", b"\x0b", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0d\x01"]
        {
            assert_eq!(fields(bytes), None, "{bytes:?}");
        }
        assert_eq!(fields(b"\x0d\x01\x02\x03\x04"), Some(vec![(1, Value::Other)]));
    }
}
