//! `linux.netDevices`: devices that go from the runtime's network namespace into the container's (config-linux.md, Network
//! Devices), and back when the container does not come to be.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::netlink::{SOCKET, Socket, attributes, number, put};
use crate::error::{Error, Result};
use crate::plan::NetDevice;

/// Attributes of an address that libc does not name (linux/if_addr.h).
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;
/// Template numbers beyond this one have no place in 15 bytes beside a letter or two, and nobody has that many devices.
const NUMBERS: u32 = 10_000;

/// A network namespace: to move to, and to speak with.
#[derive(Debug)]
struct Side {
    namespace: OwnedFd,
    socket: Socket,
}

/// The devices of one container, and where they have come from. It keeps the container's network namespace alive, so that
/// what is in it is not lost with its process.
#[derive(Debug)]
pub(super) struct Moved {
    home: Side,
    away: Side,
    devices: Vec<Device>,
}

/// A device that was moved, as it was.
#[derive(Debug)]
struct Device {
    host: String,
    /// In the container. By then its name is what the container's program says.
    index: u32,
    up: bool,
    addresses: Vec<Address>,
}

/// A permanent address.
#[derive(Debug, Clone)]
struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// What a namespace says of a device.
struct Link {
    index: u32,
    up: bool,
}

impl Side {
    fn link(&self, name: &str) -> nix::Result<Link> {
        let mut body = vec![0; 16];
        put(&mut body, libc::IFLA_IFNAME, &terminated(name));
        let answers = self.socket.request(libc::RTM_GETLINK, 0, &body)?;
        // struct ifinfomsg: family, type, index, flags, change.
        let answer = answers.first().ok_or(Errno::ENODEV)?;
        Ok(Link { index: number(answer, 4), up: number(answer, 8) & libc::IFF_UP as u32 != 0 })
    }

    /// The permanent addresses of a device, in the order in which the kernel has them.
    fn addresses(&self, index: u32) -> nix::Result<Vec<Address>> {
        let answers = self.socket.request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; 8])?;
        Ok(answers
            .iter()
            .filter(|answer| number(answer, 4) == index)
            .filter_map(|answer| Address::of(answer))
            .collect())
    }

    fn add(&self, index: u32, address: &Address, label: Option<&[u8]>) -> nix::Result<()> {
        let mut body = vec![address.family, address.prefix, 0, address.scope];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            match *kind {
                libc::IFA_LABEL => {}
                kind => put(&mut body, kind, value),
            }
        }
        if let Some(label) = label {
            put(&mut body, libc::IFA_LABEL, label);
        }
        self.socket.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body).map(drop)
    }

    fn set_up(&self, index: u32) -> nix::Result<()> {
        let up = libc::IFF_UP as u32;
        self.socket.request(libc::RTM_NEWLINK, 0, &link_message(index, up, up)).map(drop)
    }

    /// The device goes to `to` and has the name there, both in one request.
    fn send(&self, index: u32, to: &Side, name: &str) -> nix::Result<()> {
        let mut body = link_message(index, 0, 0);
        put(&mut body, libc::IFLA_NET_NS_FD, &(to.namespace.as_raw_fd() as u32).to_ne_bytes());
        put(&mut body, libc::IFLA_IFNAME, &terminated(name));
        self.socket.request(libc::RTM_NEWLINK, 0, &body).map(drop)
    }

    /// The name that a template stands for: as the kernel finds it, the first number that is free.
    fn free_name(&self, template: &str) -> nix::Result<String> {
        if !template.contains("%d") {
            return match self.link(template) {
                Err(Errno::ENODEV) => Ok(template.to_owned()),
                Ok(_) => Err(Errno::EEXIST),
                Err(errno) => Err(errno),
            };
        }
        let names = (0..NUMBERS).map(|number| template.replacen("%d", &number.to_string(), 1));
        for name in names.take_while(|name| name.len() < libc::IFNAMSIZ) {
            match self.link(&name) {
                Err(Errno::ENODEV) => return Ok(name),
                Ok(_) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::ENFILE)
    }
}

/// Sets `lo` up in the network namespace of `pid`, our child, which waits.
pub(super) fn loopback_up(pid: Pid) -> Result<()> {
    let failed = |errno| Error::new("set the loopback interface up").call("rtnetlink(RTM_NEWLINK, IFF_UP)", errno);
    let Moved { away, .. } = Moved::new(pid)?;
    away.link("lo").and_then(|link| away.set_up(link.index)).map_err(failed)
}

fn link_message(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

impl Address {
    /// struct ifaddrmsg: family, prefix length, flags, scope, index. None: one that is not permanent.
    fn of(answer: &[u8]) -> Option<Self> {
        let [family, prefix, flags, scope, ..] = *answer else { return None };
        let found = attributes(answer.get(8..)?);
        let flags =
            found.iter().find(|(kind, _)| *kind == IFA_FLAGS).map_or(u32::from(flags), |(_, value)| number(value, 0));
        if flags & libc::IFA_F_PERMANENT == 0 {
            return None;
        }
        let kept = |kind: u16| {
            matches!(kind, libc::IFA_ADDRESS | libc::IFA_LOCAL | libc::IFA_LABEL | libc::IFA_BROADCAST)
                || matches!(kind, libc::IFA_CACHEINFO | IFA_FLAGS | IFA_RT_PRIORITY | IFA_PROTO)
        };
        let attributes =
            found.into_iter().filter(|(kind, _)| kept(*kind)).map(|(kind, value)| (kind, value.to_vec())).collect();
        Some(Self { family, prefix, scope, attributes })
    }

    fn global(&self) -> bool {
        self.scope == libc::RT_SCOPE_UNIVERSE
    }

    fn label(&self) -> Option<&[u8]> {
        self.attributes.iter().find(|(kind, _)| *kind == libc::IFA_LABEL).map(|(_, value)| value.as_slice())
    }

    /// `eth0:1` of a device that is now `net1` is `net1:1`. The label that is the device's name goes without saying.
    fn renamed(&self, from: &str, to: &str) -> Option<Vec<u8>> {
        let rest = self.label()?.strip_prefix(from.as_bytes())?;
        let label = [to.as_bytes(), rest].concat();
        (rest.starts_with(b":") && label.len() <= libc::IFNAMSIZ).then_some(label)
    }
}

impl Moved {
    /// Ready to move devices into the network namespace of `pid`, our child, which waits.
    pub(super) fn new(pid: Pid) -> Result<Self> {
        let open = |path: String| {
            File::open(&path).map(OwnedFd::from).map_err(|error| {
                Error::new("open a network namespace")
                    .call(format!("open({path})"), Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
                    .at("/linux/netDevices")
                    .hint("that of the container's process takes CAP_SYS_PTRACE")
            })
        };
        let failed =
            |(call, errno): (&str, Errno)| Error::new("open rtnetlink").call(call, errno).at("/linux/netDevices");
        let (home, away) = (open("/proc/self/ns/net".into())?, open(format!("/proc/{pid}/ns/net"))?);
        let ours = Socket::open().map_err(|errno| failed((SOCKET, errno)))?;
        let theirs = Socket::open_in(away.as_fd(), home.as_fd()).map_err(failed)?;
        let side = |namespace, socket| Side { namespace, socket };
        Ok(Self { home: side(home, ours), away: side(away, theirs), devices: Vec::new() })
    }

    /// Moves one device with its addresses, and sets it up.
    ///
    /// # Errors
    /// It is not there, may not leave, or its name is taken in the container; an address is refused there.
    pub(super) fn take(&mut self, wanted: &NetDevice) -> Result<()> {
        let NetDevice { host, name, from } = wanted;
        let failed = |call: &str, errno| {
            let error = Error::new(format!("move network device {host} into the container as {name}"));
            with_hint(error.call(format!("rtnetlink({call})"), errno).at(from.clone()), errno)
        };
        let link = self.home.link(host).map_err(|errno| failed("RTM_GETLINK", errno))?;
        let addresses = self.home.addresses(link.index).map_err(|errno| failed("RTM_GETADDR", errno))?;
        let name = self.away.free_name(name).map_err(|errno| failed("RTM_GETLINK in the container", errno))?;
        let sent = self.home.send(link.index, &self.away, &name);
        // An old kernel moves first, and may refuse the name then.
        let there = if sent.is_ok() { Some(&name) } else { Some(host).filter(|host| self.home.link(host).is_err()) };
        let index = match there.map(|there| self.away.link(there)) {
            None => 0,
            Some(Ok(Link { index, .. })) => {
                let (host, addresses) = (host.clone(), addresses.clone());
                self.devices.push(Device { host, index, up: link.up, addresses });
                index
            }
            Some(Err(errno)) => return Err(failed("RTM_GETLINK in the container", errno)),
        };
        sent.map_err(|errno| failed(&format!("RTM_NEWLINK, IFLA_NET_NS_FD, IFLA_IFNAME {name:?}"), errno))?;
        for address in addresses.iter().filter(|address| address.global()) {
            let label = address.renamed(host, &name);
            self.away
                .add(index, address, label.as_deref())
                .map_err(|errno| failed("RTM_NEWADDR in the container", errno))?;
        }
        self.away.set_up(index).map_err(|errno| failed("RTM_NEWLINK, IFF_UP", errno))
    }

    /// Moves every device back, the last one first: with its old name, its addresses, and up if it was. Returns what could
    /// not be done.
    pub(super) fn give_back(self) -> Vec<String> {
        let mut lost = Vec::new();
        for device in self.devices.iter().rev() {
            if let Err(errno) = self.return_one(device) {
                lost.push(format!("network device {} could not be put back: {}", device.host, errno.desc()));
            }
        }
        lost
    }

    fn return_one(&self, device: &Device) -> nix::Result<()> {
        self.away.send(device.index, &self.home, &device.host)?;
        let index = self.home.link(&device.host)?.index;
        if device.up {
            self.home.set_up(index)?;
        }
        for address in &device.addresses {
            match self.home.add(index, address, address.label()) {
                // The kernel's own, such as a link-local one.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

fn with_hint(error: Error, errno: Errno) -> Error {
    let hint = match errno {
        Errno::ENODEV => "there is no such device in the runtime's network namespace (ip link)",
        Errno::EEXIST => "the container's network namespace has a device of that name",
        Errno::ENFILE => "no number is left for the template",
        Errno::EINVAL => "the kernel lets no loopback, bridge or other device bound to its namespace leave it",
        Errno::EPERM => "it takes CAP_NET_ADMIN in both network namespaces",
        Errno::EACCES => "IPv6 is disabled for it in the container (net.ipv6.conf.default.disable_ipv6)",
        _ => return error,
    };
    error.hint(hint)
}
