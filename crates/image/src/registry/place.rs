//! URLs that registries name: origins, redirects, and how they are shown.

use ureq::http::Uri;

/// Scheme, host and port; what credentials are bound to.
pub(super) fn origin_of(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default().to_owned();
    (scheme, uri.host().unwrap_or_default().to_ascii_lowercase(), port_of(uri))
}

/// The port of `uri`, said or understood.
pub(super) fn port_of(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

/// A URL for people: no query, which may hold a signature, and no login.
pub(super) fn place(uri: &Uri) -> String {
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{authority}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// The target of a redirect from `from`.
pub(super) fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let uri: Uri = absolute.parse().ok()?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    (web && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// `value` as a part of a query.
pub(super) fn percent_encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `text` from a peer, without control characters and not too long.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved() {
        let from: Uri = "https://reg.example:5000/v2/a/blobs/x".parse().expect("valid");
        let to = |location: &str| resolve(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/other").as_deref(), Some("https://reg.example:5000/other"));
        assert_eq!(to("//cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        assert_eq!(to("http://cdn.example/x?sig=1").as_deref(), Some("http://cdn.example/x?sig=1"));
        for bad in ["", "file:///etc/passwd", "ftp://x/y", "x y", "javascript:1", "http://"] {
            assert_eq!(to(bad), None, "{bad}");
        }
        let same = |a: &str, b: &str| origin_of(&a.parse().expect("valid")) == origin_of(&b.parse().expect("valid"));
        assert!(same("https://a/x", "https://A:443/y"));
        assert!(!same("https://a/x", "http://a/x"));
        assert!(!same("https://a/x", "https://a:444/x"));
        assert!(!same("https://a/x", "https://b.a/x"));
    }

    #[test]
    fn a_peers_words_cannot_drive_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{9b}d"), "a[2Jbcd");
        assert_eq!(printable(&"x".repeat(10_000)).len(), 400);
        assert_eq!(place(&"http://u:p@h:1/x?sig=1".parse().expect("valid")), "http://h:1/x");
        assert_eq!(percent_encode("a b+c&d"), "a%20b%2Bc%26d");
    }
}
