//! etcd's v3 messages as its gateway has them: JSON over HTTP/1.1, int64 as strings, keys and values in base64.
//!
//! Two keys. `KEY` is under the holder's lease, and goes with it. `KEY/last` is under none: it names the lease of who has taken
//! the key last, and goes only when that one gives both back. Who finds it knows that the holder before has given nothing back.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Ask, Before, Heard};

/// The path of a request, and its body. `who`: the key's value, for people.
pub fn request(ask: Ask, key: &str, ttl: Duration, who: &str) -> (&'static str, Value) {
    let (own, last) = (encode(key.as_bytes()), encode(format!("{key}/last").as_bytes()));
    let created = |revision: i64| json!([{"key": own, "target": "CREATE", "result": "EQUAL", "create_revision": revision.to_string()}]);
    let range = |key: &str| json!({"request_range": {"key": key}});
    match ask {
        Ask::Look => ("/v3/kv/range", json!({"key": own})),
        Ask::Grant => ("/v3/lease/grant", json!({"TTL": ttl.as_secs().to_string()})),
        Ask::Take(lease) => {
            let left = json!({"lease": lease.to_string(), "ttl": ttl.as_secs()}).to_string();
            let taken = json!({"key": own, "value": encode(who.as_bytes()), "lease": lease.to_string()});
            let noted = json!({"key": last, "value": encode(left.as_bytes())});
            let success = json!([range(&last), {"request_put": taken}, {"request_put": noted}, range(&own)]);
            let failure = json!([range(&own)]);
            ("/v3/kv/txn", json!({"compare": created(0), "success": success, "failure": failure}))
        }
        Ask::Renew(lease) => ("/v3/lease/keepalive", json!({"ID": lease.to_string()})),
        Ask::Leave(token) => {
            let both = [&own, &last].map(|key| json!({"request_delete_range": {"key": key}}));
            ("/v3/kv/txn", json!({"compare": created(token), "success": both}))
        }
    }
}

/// What an answer says. `ttl`: what was asked for.
///
/// # Errors
/// It is no answer to this.
pub fn heard(ask: Ask, ttl: Duration, status: u16, body: &[u8]) -> Result<Heard, String> {
    // An answer of a stream is a line of its own; the first one is the one.
    let answer = serde_json::Deserializer::from_slice(body).into_iter::<Value>().next();
    let answer = answer.and_then(Result::ok).ok_or_else(|| format!("HTTP status {status} without JSON"))?;
    if status != 200 || answer.get("error").is_some() {
        let text: String = answer["message"].as_str().or(answer["error"].as_str()).unwrap_or_default().into();
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(format!("HTTP status {status}: {text}"));
    }
    // Who answers for something else than etcd has no header.
    let header = answer.get("header").or_else(|| answer["result"].get("header"));
    header.ok_or("no answer of etcd's")?;
    match ask {
        Ask::Look => Ok(if answer["kvs"][0].is_null() { Heard::Free } else { Heard::Taken }),
        Ask::Grant => Ok(Heard::Granted(number(&answer["ID"]).ok_or("a lease without a number")?)),
        Ask::Take(lease) => taken(lease, ttl, &answer),
        // A lease that has run out is answered like one that lasts on, but without its time.
        Ask::Renew(_) => match number(&answer["result"]["TTL"]) {
            Some(1..) => Ok(Heard::Renewed),
            _ => Ok(Heard::Gone),
        },
        Ask::Leave(_) => Ok(Heard::Left),
    }
}

fn taken(lease: i64, ttl: Duration, answer: &Value) -> Result<Heard, String> {
    let kv = |index: usize| &answer["responses"][index]["response_range"]["kvs"][0];
    let token = |kv: &Value| number(&kv["create_revision"]).ok_or("a key without its create_revision");
    if answer["succeeded"] == true {
        let before = &kv(0)["value"];
        let before = (!before.is_null()).then(|| before_of(before).unwrap_or(Before { lease: 0, ttl }));
        return Ok(Heard::Won { token: token(kv(3))?, before });
    }
    match number(&kv(0)["lease"]) {
        // It was ours already, and the answer lost. Who had it before is not told any more.
        Some(holder) if holder == lease => {
            Ok(Heard::Won { token: token(kv(0))?, before: Some(Before { lease: 0, ttl }) })
        }
        _ => Ok(Heard::Taken),
    }
}

/// None: whoever has written it, it was not this program.
fn before_of(value: &Value) -> Option<Before> {
    let text: Value = serde_json::from_slice(&decode(value.as_str()?)?).ok()?;
    // A day is the longest time that a lease may have.
    let ttl = text["ttl"].as_u64().filter(|ttl| *ttl <= 86_400)?;
    Some(Before { lease: number(&text["lease"])?, ttl: Duration::from_secs(ttl) })
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// base64 (RFC 4648, 4).
fn encode(bytes: &[u8]) -> String {
    let group = |group: &[u8]| {
        let bits = (0..3).fold(0u32, |bits, index| bits << 8 | u32::from(group.get(index).copied().unwrap_or(0)));
        let sign = move |index: usize| char::from(ALPHABET[(bits >> (18 - 6 * index)) as usize & 63]);
        let signs = group.len() + 1;
        (0..4).map(move |index| if index < signs { sign(index) } else { '=' })
    };
    bytes.chunks(3).flat_map(group).collect()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for sign in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|other| *other == sign)?;
        (bits, count) = (bits << 6 | value as u32, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);
    const HEADER: &str = r#""header":{"cluster_id":"1","revision":"7"}"#;

    fn said(ask: Ask, body: &str) -> Result<Heard, String> {
        heard(ask, TTL, 200, body.replace("HEADER", HEADER).as_bytes())
    }

    #[test]
    fn base64_is_base64() {
        // RFC 4648, 10
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(encode(plain.as_bytes()), coded);
            assert_eq!(decode(coded).as_deref(), Some(plain.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
        assert_eq!(decode("a b"), None);
    }

    /// By what etcd 3.4 was seen to answer.
    #[test]
    fn a_lease_without_its_time_is_none() {
        let renewed = |rest: &str| said(Ask::Renew(9), &format!("{{\"result\":{{HEADER,\"ID\":\"9\"{rest}}}}}\n"));
        assert_eq!(renewed(r#","TTL":"5""#), Ok(Heard::Renewed));
        assert_eq!(renewed(""), Ok(Heard::Gone));
        assert_eq!(renewed(r#","TTL":"0""#), Ok(Heard::Gone));
        // Not a word of etcd's: the lease may last on, or not.
        for text in ["{}", "[]", "", "{\"result\":{}}", "{\"error\":{\"message\":\"x\"}}"] {
            assert!(said(Ask::Renew(9), text).is_err(), "{text}");
        }
        let lost = br#"{"error":"etcdserver: requested lease not found","code":5}"#;
        let lost = heard(Ask::Take(9), TTL, 404, lost);
        assert_eq!(lost, Err("HTTP status 404: etcdserver: requested lease not found".into()));
    }

    #[test]
    fn a_key_is_free_taken_or_ours() {
        let key = r#"{"key":"aw==","create_revision":"12","lease":"9007199254740993"}"#;
        let range = |kvs: &str| format!("{{\"response_range\":{{HEADER{kvs}}}}}");
        let of = |kv: &str| range(&format!(",\"kvs\":[{kv}]"));
        let put = r#"{"response_put":{}}"#;
        let won = |last: &str| format!("{{HEADER,\"succeeded\":true,\"responses\":[{last},{put},{put},{}]}}", of(key));
        let lost = format!("{{HEADER,\"responses\":[{}]}}", of(key));
        assert_eq!(said(Ask::Look, "{HEADER}"), Ok(Heard::Free));
        assert_eq!(said(Ask::Look, &format!("{{HEADER,\"kvs\":[{key}]}}")), Ok(Heard::Taken));
        assert_eq!(said(Ask::Grant, "{HEADER,\"ID\":\"9007199254740993\"}"), Ok(Heard::Granted(9_007_199_254_740_993)));
        let ours = Ask::Take(9_007_199_254_740_993);
        assert_eq!(said(ours, &won(&range(""))), Ok(Heard::Won { token: 12, before: None }));
        let noted = encode(br#"{"lease":"3","ttl":30}"#);
        let before = Some(Before { lease: 3, ttl: Duration::from_secs(30) });
        assert_eq!(said(ours, &won(&of(&format!("{{\"value\":\"{noted}\"}}")))), Ok(Heard::Won { token: 12, before }));
        // What can't be read, and what is not told, is somebody all the same.
        let unknown = Some(Before { lease: 0, ttl: TTL });
        assert_eq!(said(ours, &won(&of("{\"value\":\"eA==\"}"))), Ok(Heard::Won { token: 12, before: unknown }));
        assert_eq!(said(ours, &lost), Ok(Heard::Won { token: 12, before: unknown }));
        assert_eq!(said(Ask::Take(1), &lost), Ok(Heard::Taken));
    }
}
