//! A string on the stack, for what the child has to say.

use std::ffi::CStr;

/// At most 511 bytes and a NUL; what does not fit is cut.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; 512],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self::new()
    }
}

impl Text {
    /// The empty text.
    pub const fn new() -> Self {
        Self { bytes: [0; 512], length: 0 }
    }

    /// Appends as many of `bytes` as fit.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.bytes.len() - 1 - self.length;
        let bytes = &bytes[..bytes.len().min(room)];
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Appends a number in decimal.
    pub fn number(&mut self, value: i64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = value.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            self.push(b"-");
        }
        self.push(&digits[at..]);
    }

    /// What was appended.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The same as a C string, up to a NUL that may be in it.
    pub fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

/// A path on the stack, for a part of a longer one.
pub struct PathText {
    bytes: [u8; 4096],
    length: usize,
}

impl PathText {
    /// The empty path.
    pub const fn new() -> Self {
        Self { bytes: [0; 4096], length: 0 }
    }

    /// Appends; false when it does not fit.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if self.length + bytes.len() >= self.bytes.len() {
            return false;
        }
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
        true
    }

    /// The path.
    pub fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_cuts() {
        let mut text = Text::new();
        text.number(i64::MIN);
        text.push(b" ");
        text.number(0);
        assert_eq!(text.bytes(), b"-9223372036854775808 0");
        text.push(&[b'x'; 600]);
        assert_eq!(text.bytes().len(), 511);
        assert_eq!(text.as_cstr().to_bytes().len(), 511);
        let mut path = PathText::new();
        assert!(path.push(&[b'p'; 4095]) && !path.push(b"p"));
    }
}
