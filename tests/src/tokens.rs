//! A token server for Debian's registry (distribution's token specification): it knows one user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::http::{Request, Response, Server};

/// The user's name and password.
pub const USER: (&str, &str) = ("ann", "secret");
/// What stands for the password after a login.
pub const IDENTITY: &str = "identity-of-ann";
/// Who issues, and for whom: the registry is told the same.
pub const ISSUER: &str = "testkit";
/// The audience of its tokens.
pub const SERVICE: &str = "registry.testkit";

/// How it differs from one that takes everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// It answers 405 to POST.
    pub no_post: bool,
    /// Seconds its tokens live; registries allow a minute of skew, so this is for the client.
    pub life: u64,
}

/// Starts a token server whose tokens `authority` signs.
#[must_use]
pub fn serve(authority: Authority, habits: Habits) -> Server {
    let authority = Arc::new(authority);
    Server::start(move |request| answer(&authority, habits, request))
}

fn answer(authority: &Authority, habits: Habits, request: &Request) -> Response {
    let (_, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let text = match request.method.as_str() {
        "POST" if habits.no_post => return Response::status(405),
        "POST" => String::from_utf8_lossy(&request.body).into_owned(),
        _ => query.to_owned(),
    };
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in text.split('&').filter_map(|field| field.split_once('=')) {
        fields.entry(name.to_owned()).or_default().push(decoded(value));
    }
    let one = |name: &str| fields.get(name).and_then(|values| values.first()).map_or("", String::as_str);
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", USER.0, USER.1)));
    let known = match (request.method.as_str(), one("grant_type")) {
        ("POST", "password") => (one("username"), one("password")) == USER,
        ("POST", "refresh_token") => one("refresh_token") == IDENTITY,
        ("GET", _) => request.authorization.as_deref() == Some(&basic),
        _ => false,
    };
    if !known || one("service") != SERVICE {
        return Response::status(401);
    }
    let scopes = fields.get("scope").into_iter().flatten().flat_map(|value| value.split(' '));
    let access: Vec<Value> = scopes
        .filter_map(|scope| {
            let (resource, actions) = scope.rsplit_once(':')?;
            let (kind, name) = resource.split_once(':')?;
            Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
        })
        .collect();
    let mut said = json!({"token": token(authority, &access), "expires_in": habits.life.max(1)});
    if one("access_type") == "offline" || one("offline_token") == "true" {
        said["refresh_token"] = json!(IDENTITY);
    }
    Response::ok("application/json", said.to_string().as_bytes())
}

fn token(authority: &Authority, access: &[Value]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [authority.bare()]});
    let claims = json!({
        "iss": ISSUER, "sub": USER.0, "aud": SERVICE, "exp": now + 300, "nbf": now - 30, "iat": now,
        "jti": now.to_string(), "access": access,
    });
    let signed = format!("{}.{}", part(&head), part(&claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(authority.sign(&signed)))
}

/// A form's value without its percent signs.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex: Vec<u8> = rest.by_ref().take(2).collect();
        let hex = std::str::from_utf8(&hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(hex.expect("two digits after a percent sign"));
    }
    String::from_utf8(bytes).expect("UTF-8 in a form")
}
