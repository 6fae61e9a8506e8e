//! The names of all that a type reads, found by reading it: a deserializer that has every field, and of each list and map one
//! element.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};

/// Each property of `T` as docs/runtime-spec.md has it: `process.rlimits[].soft`.
pub fn properties<T: DeserializeOwned>() -> BTreeSet<String> {
    let found = RefCell::default();
    T::deserialize(Shape { here: String::new(), found: &found }).expect("a value of each kind");
    found.into_inner()
}

struct Shape<'a> {
    here: String,
    found: &'a RefCell<BTreeSet<String>>,
}

impl<'a> Shape<'a> {
    fn below(&self, step: &str) -> Shape<'a> {
        Shape { here: format!("{}{step}", self.here), found: self.found }
    }

    fn leaf(&self) {
        self.found.borrow_mut().insert(self.here.clone());
    }

    /// A text that is good for every property that has rules of its own.
    fn text(&self) -> &'static str {
        if self.here.starts_with("process.capabilities.") { "CAP_CHOWN" } else { "0" }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.leaf();
            visitor.visit_u8(1)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Shape<'_> {
    type Error = Error;

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_bool(true)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_str(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Below { names: [""].iter(), value: self.below("[]") })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Below { names: ["key"].iter(), value: self.below("{}") })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { names: fields.iter(), name: "", value: self })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.leaf();
        let first: StrDeserializer<'_, Error> = variants[0].into_deserializer();
        visitor.visit_enum(first)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.leaf();
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any i128 u128
    }
}

/// One element.
struct Below<'a> {
    names: std::slice::Iter<'a, &'a str>,
    value: Shape<'a>,
}

impl<'de> SeqAccess<'de> for Below<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.names.next().map(|_| seed.deserialize(self.value.below(""))).transpose()
    }
}

impl<'de> MapAccess<'de> for Below<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let key = |name: &&str| seed.deserialize(IntoDeserializer::<Error>::into_deserializer(*name));
        self.names.next().map(key).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.value.below(""))
    }
}

/// Every field.
struct Fields<'a> {
    names: std::slice::Iter<'static, &'static str>,
    name: &'static str,
    value: Shape<'a>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else { return Ok(None) };
        self.name = name;
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(*name)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let step = if self.value.here.is_empty() { self.name.to_owned() } else { format!(".{}", self.name) };
        seed.deserialize(self.value.below(&step))
    }
}
