//! Annotations `org.systemd.property.NAME`: further properties of the scope, in GVariant's text format, as runc has them.

use oci_spec::runtime::Spec;

use super::properties::Property;
use super::text;
use crate::bundle::escape;
use crate::dbus::Value;
use crate::error::{Error, Result};

/// What such an annotation's name begins with.
pub const PREFIX: &str = "org.systemd.property.";

/// What the runtime says itself: which processes, and where, and whose the cgroup is.
const OURS: [&str; 4] = ["PIDs", "PIDFDs", "Slice", "Delegate"];

/// The properties of all annotations, in the order of their names.
pub(super) fn properties(spec: &Spec) -> Result<Vec<Property>> {
    let annotations = spec.annotations().iter().flatten();
    let mut given: Vec<_> =
        annotations.filter_map(|(key, value)| Some((key, key.strip_prefix(PREFIX)?, value))).collect();
    given.sort_unstable();
    given
        .into_iter()
        .map(|(key, name, value)| property(&format!("/annotations/{}", escape(key)), name, value))
        .collect()
}

fn property(from: &str, name: &str, text: &str) -> Result<Property> {
    let wrong = |why: String| Error::new(format!("annotation {PREFIX}{name}: {why}")).at(from);
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(wrong("a property's name is made of three letters or more".into()));
    }
    if OURS.contains(&name) {
        return Err(wrong("the runtime itself sets this property".into()));
    }
    let value = text::parse(text).map_err(|why| {
        wrong(format!("{text:?}: {why}"))
            .hint("values are in GVariant's text format: true, 'text', uint64 5, ['a.service', 'b.service']")
    })?;
    match name.strip_suffix("Sec").filter(|rest| rest.ends_with(|last: char| last.is_ascii_lowercase())) {
        Some(rest) => {
            let value = microseconds(&value).ok_or_else(|| wrong(format!("{text:?} is no number of seconds")))?;
            Ok(Property::new(&format!("{rest}USec"), value, from))
        }
        None => Ok(Property::new(name, value, from)),
    }
}

/// Seconds, as unit files have them, are microseconds on D-Bus.
fn microseconds(seconds: &Value) -> Option<Value> {
    let micros = match seconds {
        Value::Double(value) => {
            let micros = (value * 1e6).round();
            (0.0..u64::MAX as f64).contains(&micros).then_some(micros as u64)?
        }
        Value::Int32(value) => u64::try_from(*value).ok()?.checked_mul(1_000_000)?,
        Value::Uint32(value) => u64::from(*value) * 1_000_000,
        Value::Int64(value) => u64::try_from(*value).ok()?.checked_mul(1_000_000)?,
        Value::Uint64(value) => value.checked_mul(1_000_000)?,
        _ => return None,
    };
    Some(Value::Uint64(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Result<(String, Value)> {
        property("/annotations/x", name, text).map(|property| (property.name, property.value))
    }

    #[test]
    fn seconds_are_microseconds_on_d_bus() {
        for text in ["2", "uint64 2", "int64 2", "uint32 2", "2.0"] {
            assert_eq!(of("TimeoutStopSec", text).unwrap(), ("TimeoutStopUSec".into(), Value::Uint64(2_000_000)));
        }
        assert_eq!(of("TimeoutStopSec", "1.5").unwrap().1, Value::Uint64(1_500_000));
        assert_eq!(of("TimeoutStopUSec", "uint64 7").unwrap(), ("TimeoutStopUSec".into(), Value::Uint64(7)));
        for text in ["'2'", "-1", "-0.5", "uint64 18446744073709551615", "true"] {
            assert!(of("TimeoutStopSec", text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_letters_and_not_those_of_the_runtime() {
        for name in ["", "Ab", "A-b", "Ab1c", "PIDs", "Slice", "Delegate"] {
            let error = of(name, "true").unwrap_err();
            assert_eq!(error.pointer.as_deref(), Some("/annotations/x"), "{name}");
        }
        assert_eq!(of("SendSIGHUP", "true").unwrap(), ("SendSIGHUP".into(), Value::Bool(true)));
    }
}
