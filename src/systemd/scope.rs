//! `linux.cgroupsPath` as `slice:prefix:name`: which scope, and where systemd will put its cgroup.

use std::path::Path;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::annotations;
use super::properties::{self, Property};
use crate::cgroup::Write;
use crate::dbus::Value;
use crate::error::{Error, Result};

/// systemd's own bound for the name of a unit (systemd.unit(5)).
const NAME_MAX: usize = 255;
const POINTER: &str = "/linux/cgroupsPath";

/// A unit of one of the systemd instances of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// Such as `runc-c1.scope`.
    pub name: String,
    /// It is one of the user's own instance and not of the system's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub user: bool,
}

/// The scope that systemd is to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// The scope.
    pub unit: Unit,
    /// The slice that it goes into.
    pub slice: String,
    /// Its properties, but for the process that it begins with.
    pub properties: Vec<Property>,
}

impl Scope {
    /// The scope of a container and the path at which its cgroup is expected. `own` is the runtime's cgroup, by which an
    /// ordinary user's (`user`) instance of systemd is found.
    ///
    /// # Errors
    /// `cgroupsPath` has another form or names what can be no unit; an annotation that is no property.
    pub fn plan(spec: &Spec, id: &str, writes: &[Write], user: Option<u32>, own: &str) -> Result<(Scope, String)> {
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let (slice, name) = name_of(path, id, user.is_some())?;
        let below = expand(&slice)?;
        let path = format!("{}{below}/{name}", user.map(|uid| instance(own, uid)).unwrap_or_default());
        let mut properties = vec![
            Property::new("Description", format!("orlop container {id}").as_str().into(), ""),
            Property::new("Slice", slice.as_str().into(), POINTER),
            // What is in the cgroup is the container's and ours: systemd leaves it alone.
            Property::new("Delegate", Value::Bool(true), ""),
            Property::new("DefaultDependencies", Value::Bool(false), ""),
        ];
        for controller in ["CPU", "IO", "Memory", "Tasks"] {
            properties.push(Property::new(&format!("{controller}Accounting"), Value::Bool(true), ""));
        }
        properties.extend(annotations::properties(spec)?);
        // The last one wins: a limit of linux.resources is not undone by an annotation.
        properties.extend(properties::of_writes(writes));
        Ok((Scope { unit: Unit { name, user: user.is_some() }, slice, properties }, path))
    }
}

/// The slice and the scope of `cgroupsPath`; without one, those that runc takes.
///
/// # Errors
/// At `/linux/cgroupsPath`.
pub fn name_of(cgroups_path: Option<&Path>, id: &str, user: bool) -> Result<(String, String)> {
    let given = cgroups_path.map(|path| path.to_string_lossy()).unwrap_or_default();
    let (slice, prefix, name) = match &given.split(':').collect::<Vec<_>>()[..] {
        [""] => ("", "runc", id),
        [slice, prefix, name] => (*slice, *prefix, *name),
        _ => {
            let text = "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups";
            return Err(Error::new(format!("{text}, got {given:?} instead"))
                .at(POINTER)
                .hint("such as system.slice:orlop:c1; a path is for the cgroupfs driver, without --systemd-cgroup"));
        }
    };
    if name.ends_with(".slice") {
        return Err(Error::new(format!("cgroupsPath names the slice {name:?}, which can have no process"))
            .at(POINTER)
            .hint("a container is a scope in a slice: slice:prefix:name with another name"));
    }
    let slice = match (slice, user) {
        ("", false) => "system.slice",
        ("", true) => "user.slice",
        _ => slice,
    };
    Ok((slice.to_owned(), checked(format!("{prefix}-{name}.scope"))?))
}

fn checked(name: String) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if name.len() > NAME_MAX {
        return Err(Error::new(format!("{name:?} has more than {NAME_MAX} bytes, so it is no unit")).at(POINTER));
    }
    match name.bytes().all(plain) {
        true => Ok(name),
        false => Err(Error::new(format!("{name:?} can be no unit of systemd"))
            .at(POINTER)
            .hint("unit names are made of letters, digits and :-_.\\@")),
    }
}

/// The path of a slice below its root: `a-b.slice` lies in `a.slice` (systemd.slice(5)).
fn expand(slice: &str) -> Result<String> {
    let wrong = || {
        let error = Error::new(format!("invalid slice name: {slice}")).at(POINTER);
        error.hint("such as a-b.slice, which lies in a.slice; -.slice is the root")
    };
    checked(slice.to_owned())?;
    let name = slice.strip_suffix(".slice").ok_or_else(wrong)?;
    if name == "-" {
        return Ok(String::new());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for component in name.split('-') {
        if component.is_empty() {
            return Err(wrong());
        }
        path += &format!("/{prefix}{component}.slice");
        prefix += &format!("{component}-");
    }
    Ok(path)
}

/// The cgroup of a user's instance of systemd: the caller is below it, or it is where pam_systemd(8) has put it.
fn instance(own: &str, uid: u32) -> String {
    let mut path = String::new();
    for name in own.split('/').skip(1) {
        path += &format!("/{name}");
        if name.starts_with("user@") && name.ends_with(".service") {
            return path;
        }
    }
    format!("/user.slice/user-{uid}.slice/user@{uid}.service")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: Option<&str>, user: bool) -> Result<(String, String)> {
        name_of(path.map(Path::new), "c1", user)
    }

    #[test]
    fn names_as_runc_has_them() {
        for (path, user, slice, unit) in [
            (None, false, "system.slice", "runc-c1.scope"),
            (Some(""), true, "user.slice", "runc-c1.scope"),
            (Some("a-b.slice:docker:x"), false, "a-b.slice", "docker-x.scope"),
            (Some(":p:x"), false, "system.slice", "p-x.scope"),
            (Some("machine.slice:libpod:0a"), true, "machine.slice", "libpod-0a.scope"),
        ] {
            assert_eq!(named(path, user), Ok((slice.to_owned(), unit.to_owned())), "{path:?}");
        }
    }

    #[test]
    fn what_is_no_unit_is_refused_in_place() {
        let long = format!("a.slice:p:{}", "x".repeat(250));
        for path in
            ["/a/b", "a:b", "a:b:c:d", "a.slice:p:x.slice", "a.slice:p:x+y", "a.slice:p:x/y", "a.slice:p:x y", &long]
        {
            let error = named(Some(path), false).unwrap_err();
            assert_eq!(error.pointer.as_deref(), Some(POINTER), "{path}");
        }
        let error = named(Some("/a/b"), false).unwrap_err().message;
        assert!(error.contains("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups"));
    }

    #[test]
    fn slices_nest_by_their_names() {
        assert_eq!(expand("system.slice").unwrap(), "/system.slice");
        assert_eq!(expand("a-b-c.slice").unwrap(), "/a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(expand("-.slice").unwrap(), "");
        for wrong in ["", "a", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "a.scope", "a'b.slice"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_users_instance_is_above_the_caller_or_in_its_usual_place() {
        let below = "/user.slice/user-7.slice/user@7.service/app.slice/x.scope";
        assert_eq!(instance(below, 8), "/user.slice/user-7.slice/user@7.service");
        assert_eq!(instance("/user.slice/user-8.slice/session-1.scope", 8), "/user.slice/user-8.slice/user@8.service");
    }
}
