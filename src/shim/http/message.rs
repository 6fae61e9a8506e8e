//! Requests and responses as bytes (RFC 9112). [`parse`] is a function of what has come, and of nothing else.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{BODY, HEAD, Kind};
use crate::state;

/// As many headers as are looked at.
const HEADERS: usize = 64;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// GET, HEAD, POST or whatever it said.
    pub method: String,
    /// The parts of the path, decoded: `["v1", "containers", "web"]`.
    pub path: Vec<String>,
    /// The parts of the query, decoded; without a `=` the value is empty.
    pub query: Vec<(String, String)>,
    /// The header `Accept`.
    pub accept: String,
    /// The header `Authorization`.
    pub authorization: Option<Secret>,
    /// The body.
    pub body: Vec<u8>,
    /// The socket that it came by.
    pub kind: Kind,
}

/// What is in no log: it is shown as dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

impl Request {
    /// The first value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its media type.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// One with this body.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.into() }
    }

    /// A line of text.
    pub fn text(status: u16, line: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", format!("{line}\n"))
    }

    /// What the status says, and why.
    pub fn error(status: u16, why: &str) -> Self {
        match why {
            "" => Self::text(status, phrase(status)),
            why => Self::text(status, why),
        }
    }

    /// One more header. What would end it is left away.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let mut value: String = value.into();
        value.retain(|c| !c.is_control());
        self.headers.push((name, value));
        self
    }

    /// The bytes; `head`: without the body, whose length is told all the same (RFC 9110, 9.3.2).
    pub(super) fn encode(&self, head: bool, keep: bool) -> Vec<u8> {
        let mut text = String::with_capacity(256);
        let connection = if keep { "keep-alive" } else { "close" };
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: {connection}\r\n",
            self.status,
            phrase(self.status),
            state::http_date(std::time::SystemTime::now()),
            self.content_type,
            self.body.len(),
        );
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if !head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// What bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a request.
    Partial,
    /// A request, how many bytes it has, and whether another one may follow it.
    Whole(Request, usize, bool),
    /// What is answered with this status and this reason, and the end of the connection.
    Bad(u16, &'static str),
}

/// Looks for a request at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8], kind: Kind) -> Parsed {
    match whole(bytes, kind) {
        Ok(parsed) => parsed,
        Err((status, why)) => Parsed::Bad(status, why),
    }
}

type Bad = (u16, &'static str);

fn whole(bytes: &[u8], kind: Kind) -> Result<Parsed, Bad> {
    const LARGE: Bad = (431, "the head of a request has at most 8 kB and 64 fields");
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) if head <= HEAD => head,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD => return Ok(Parsed::Partial),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(LARGE),
        Err(httparse::Error::Version) => return Err((505, "HTTP/1.1 is spoken here")),
        Err(_) => return Err((400, "this is no request")),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err((400, "this is no request"));
    };
    let fields = Fields(request.headers);
    let length = fields.length()?;
    check_host(&fields, version, kind)?;
    if fields.only("expect")?.is_some() {
        return Err((417, "nothing may be expected"));
    }
    let connection = fields.all("connection").to_ascii_lowercase();
    let says = |word: &str| connection.split(',').any(|each| each.trim() == word);
    let keep = if version == 0 { says("keep-alive") } else { !says("close") };
    let (path, query) = parse_target(target).ok_or((400, "the target of the request is not understood"))?;
    let Some(body) = bytes.get(head..head + length) else { return Ok(Parsed::Partial) };
    let (accept, authorization) = (fields.all("accept"), fields.only("authorization")?.map(Secret));
    let request =
        Request { method: method.to_owned(), path, query, accept, authorization, body: body.to_owned(), kind };
    Ok(Parsed::Whole(request, head + length, keep))
}

struct Fields<'a>(&'a [httparse::Header<'a>]);

impl Fields<'_> {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        let named = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| String::from_utf8_lossy(field.value).trim().to_owned())
    }

    /// All values of a field that is a list.
    fn all(&self, name: &str) -> String {
        self.values(name).collect::<Vec<_>>().join(", ")
    }

    /// The value of a field that must not come twice.
    fn only(&self, name: &str) -> Result<Option<String>, Bad> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err((400, "a field that may come once has come twice")),
        }
    }

    /// The length of the body. A message that could be cut in two ways is none.
    fn length(&self) -> Result<usize, Bad> {
        if self.values("transfer-encoding").next().is_some() {
            return Err((411, "a body must have its Content-Length"));
        }
        let Some(length) = self.only("content-length")? else { return Ok(0) };
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err((400, "Content-Length is a number"));
        }
        match length.parse::<usize>() {
            Ok(length) if length <= BODY => Ok(length),
            _ => Err((413, "a body has at most 8 kB")),
        }
    }
}

/// RFC 9112, 3.2: HTTP/1.1 has one Host. A page of the web whose name leads to this machine asks by that name, so a port
/// answers to addresses and to `localhost` only.
fn check_host(fields: &Fields, version: u8, kind: Kind) -> Result<(), Bad> {
    let Some(host) = fields.only("host")? else {
        return if version == 0 { Ok(()) } else { Err((400, "a request has the field Host")) };
    };
    if kind != Kind::Tcp {
        return Ok(());
    }
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    match name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() {
        true => Ok(()),
        false => Err((421, "the host is to be named by its address")),
    }
}

/// The path's parts and the query's, decoded.
type Target = (Vec<String>, Vec<(String, String)>);

/// A path, or a whole URL as a proxy would have it (RFC 9112, 3.2.2).
fn parse_target(target: &str) -> Option<Target> {
    let target = match target.split_once("://") {
        Some(("http", rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.strip_prefix('/')?.split('/').map(decode).collect::<Option<_>>()?;
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name)?, decode(value)?))
    };
    let query = query.split('&').filter(|each| !each.is_empty()).map(pair).collect::<Option<_>>()?;
    Some((path, query))
}

/// `%41` is A. A `+` stays one: ids may have it.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(bytes: &[u8], kind: Kind) -> u16 {
        match parse(bytes, kind) {
            Parsed::Bad(status, _) => status,
            Parsed::Partial => 0,
            Parsed::Whole(..) => 200,
        }
    }

    #[test]
    fn a_request_is_taken_apart() {
        let bytes = b"POST /v1/containers/a%2Bb+c/stop?timeout=1.5&x HTTP/1.1\r\nHost: x\r\nAccept: a\r\nAccept: b\r\n\
            Content-Length: 2\r\nConnection: Close\r\n\r\nhiGET";
        let Parsed::Whole(request, used, keep) = parse(bytes, Kind::Control) else { panic!("no request") };
        assert_eq!((used, keep), (bytes.len() - 3, false));
        assert_eq!(request.path, ["v1", "containers", "a+b+c", "stop"]);
        assert_eq!((request.parameter("timeout"), request.parameter("x")), (Some("1.5"), Some("")));
        assert_eq!((request.accept.as_str(), &request.body[..]), ("a, b", &b"hi"[..]));
        let whole = parse(b"GET http://localhost:1/livez HTTP/1.1\r\nHost: x\r\n\r\n", Kind::Read);
        assert!(matches!(whole, Parsed::Whole(Request { path, .. }, _, true) if path == ["livez"]));
    }

    /// Each status by a request that differs from a good one in one thing.
    #[test]
    fn what_is_not_understood_is_refused() {
        let with = |line: &str, fields: &str| format!("{line}\r\nHost: x\r\n{fields}\r\n").into_bytes();
        let get = "GET / HTTP/1.1";
        let long = format!("X: {}\r\n", "x".repeat(HEAD));
        let many = "X: y\r\n".repeat(HEADERS + 1);
        for (bytes, expected) in [
            (with(get, ""), 200),
            (with("GET / HTTP/1.0", ""), 200),
            (b"GET / HTTP/1.0\r\n\r\n".to_vec(), 200),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
            (with(get, "Host: y\r\n"), 400),
            (with("PRI * HTTP/2.0", ""), 505),
            (with("GET  / HTTP/1.1", ""), 400),
            (with("OPTIONS * HTTP/1.1", ""), 400),
            (with("GET /%4 HTTP/1.1", ""), 400),
            (with("GET /%ff HTTP/1.1", ""), 400),
            (with(get, "X : y\r\n"), 400),
            (with(get, "Content-Length: 3\r\n"), 0),
            (with(get, "Content-Length: +3\r\n"), 400),
            (with(get, "Content-Length: 0\r\nContent-Length: 0\r\n"), 400),
            (with(get, "Content-Length: 8193\r\n"), 413),
            (with(get, "Content-Length: 99999999999999999999999\r\n"), 413),
            (with(get, "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), 411),
            (with(get, "Expect: 100-continue\r\n"), 417),
            (with(get, &long), 431),
            (with(get, &many), 431),
            (format!("GET /{}", "x".repeat(HEAD)).into_bytes(), 431),
        ] {
            assert_eq!(status(&bytes, Kind::Read), expected, "{:.200}", String::from_utf8_lossy(&bytes));
        }
    }

    /// A page of the web that has had its own name lead here asks by that name.
    #[test]
    fn a_port_answers_to_addresses_only() {
        for (host, expected) in [
            ("127.0.0.1:9100", 200),
            ("[::1]:9100", 200),
            ("LOCALHOST", 200),
            ("evil.example", 421),
            ("evil.example:80", 421),
            ("", 421),
        ] {
            let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(status(bytes.as_bytes(), Kind::Tcp), expected, "{host}");
            assert_eq!(status(bytes.as_bytes(), Kind::Read), 200, "{host}");
        }
    }

    #[test]
    fn no_header_ends_the_head() {
        let response = Response::text(200, "a").header("X-A", "b\r\n\r\nc");
        let text = String::from_utf8(response.encode(true, true)).unwrap();
        assert!(text.contains("\r\nX-A: bc\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(text.contains("\r\nContent-Length: 2\r\n"), "{text}");
    }

    proptest! {
        /// What is larger than the limits is refused, not waited for.
        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), pad in 0usize..20_000) {
            for bytes in [bytes.clone(), [b"GET / HTTP/1.1\r\nHost: x\r\n", &bytes[..]].concat(), [bytes, vec![b'a'; pad]].concat()] {
                match parse(&bytes, Kind::Tcp) {
                    Parsed::Partial => prop_assert!(bytes.len() <= HEAD + BODY),
                    Parsed::Whole(request, used, _) => {
                        prop_assert!(used <= bytes.len() && used <= HEAD + BODY && request.body.len() <= BODY);
                    }
                    Parsed::Bad(status, _) => prop_assert!((400..600).contains(&status)),
                }
            }
        }

        /// However it is cut, it is the same request, and nothing before its end.
        #[test]
        fn no_part_of_a_request_is_one(path in "[a-zA-Z0-9/._+-]{0,40}", length in 0usize..40, fields in 0usize..9) {
            let mut bytes = format!("GET /{path} HTTP/1.1\r\nHost: [::1]\r\n{}", "X-Y: z\r\n".repeat(fields)).into_bytes();
            bytes.extend_from_slice(format!("Content-Length: {length}\r\n\r\n{}", "b".repeat(length)).as_bytes());
            for end in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..end], Kind::Tcp), Parsed::Partial);
            }
            prop_assert!(matches!(parse(&bytes, Kind::Tcp), Parsed::Whole(_, used, true) if used == bytes.len()));
        }
    }
}
