//! H6: an HTTP server on loopback that answers what the test says, truthful or not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::image::Members;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Authorization` header, if sent.
    pub authorization: Option<String>,
    /// The first byte that is asked for, if not all are.
    pub range: Option<usize>,
    /// What was sent along.
    pub body: Vec<u8>,
}

/// How an answer's body goes.
#[derive(Clone, Debug)]
pub enum Body {
    /// These bytes, with their length.
    Whole(Vec<u8>),
    /// These bytes, but a longer length is promised; then the connection closes.
    CutShort(Vec<u8>, u64),
    /// White space and no end.
    Endless,
    /// These bytes, so many at a time, with a pause after each.
    Slow(Vec<u8>, usize, Duration),
    /// Nothing, ever, with the connection open.
    Silence,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers beside the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
}

impl Response {
    /// 200 with this type and these bytes.
    #[must_use]
    pub fn ok(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type".into(), media_type.into())],
            body: Body::Whole(bytes.to_vec()),
        }
    }

    /// An empty answer of this status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(Vec::new()) }
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another body.
    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// The server. Its threads end with it.
pub struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Request>>>,
}

/// No endless body goes further than this: a client that reads more has failed already.
const ENDLESS: usize = 1 << 30;

impl Server {
    /// Starts one that answers by `handler`.
    ///
    /// # Panics
    /// When loopback has no free port.
    #[must_use]
    pub fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler = Arc::new(handler);
        let (stopping, log) = (Arc::clone(&stop), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopping.load(Ordering::Acquire) {
                    break;
                }
                let (handler, log, stopping) = (Arc::clone(&handler), Arc::clone(&log), Arc::clone(&stopping));
                std::thread::spawn(move || {
                    // A client that hangs up in the middle is part of these tests.
                    drop(serve(stream, handler.as_ref(), &log, &stopping));
                });
            }
        });
        Self { port, stop, seen }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Everything asked so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accept.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// A well-behaved registry's answer to `request`: the images of an OCI layout, the first of them under every tag.
#[must_use]
pub fn shelf(layout: &Members, request: &Request) -> Response {
    let path = request.path.split('?').next().unwrap_or_default();
    if path == "/v2/" {
        return Response::status(200);
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let digest = match path.contains("/manifests/") && !name.contains(':') {
        true => {
            let index: serde_json::Value = serde_json::from_slice(layout.get("index.json")).expect("JSON");
            index["manifests"][0]["digest"].as_str().expect("a digest").to_owned()
        }
        false => name.to_owned(),
    };
    let member = format!("blobs/{}", digest.replace(':', "/"));
    let Some(bytes) = layout.find(&member) else { return Response::status(404) };
    if path.contains("/manifests/") {
        let document: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
        return Response::ok(document["mediaType"].as_str().unwrap_or("application/octet-stream"), bytes);
    }
    match request.range {
        Some(from) if from < bytes.len() => {
            Response { status: 206, ..Response::ok("application/octet-stream", &bytes[from..]) }
                .header("Content-Range", &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
        }
        _ => Response::ok("application/octet-stream", bytes),
    }
}

fn serve(
    stream: TcpStream,
    handler: &(impl Fn(&Request) -> Response + ?Sized),
    log: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut request = Request { method, path, authorization: None, range: None, body: Vec::new() };
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            if name.eq_ignore_ascii_case("authorization") {
                request.authorization = Some(value.trim().to_owned());
            } else if name.eq_ignore_ascii_case("range") {
                request.range = value.trim().strip_prefix("bytes=").and_then(|v| v.split('-').next()?.parse().ok());
            } else if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        (&mut reader).take(length).read_to_end(&mut request.body)?;
        let response = handler(&request);
        log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let mut head = format!("HTTP/1.1 {} -\r\n", response.status);
        for (name, value) in &response.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let without_body = request.method == "HEAD";
        match response.body {
            Body::Whole(bytes) => {
                stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", bytes.len()).as_bytes())?;
                if !without_body {
                    stream.write_all(&bytes)?;
                }
            }
            Body::CutShort(bytes, length) => {
                stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes())?;
                return stream.write_all(&bytes);
            }
            Body::Slow(bytes, chunk, pause) => {
                stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", bytes.len()).as_bytes())?;
                for part in bytes.chunks(chunk.max(1)) {
                    if stop.load(Ordering::Acquire) {
                        return Ok(());
                    }
                    stream.write_all(part)?;
                    std::thread::sleep(pause);
                }
            }
            Body::Endless => {
                stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
                let blanks = [b' '; 65536];
                for _ in 0..ENDLESS / blanks.len() {
                    stream.write_all(&blanks)?;
                }
                return Ok(());
            }
            Body::Silence => {
                while !stop.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_records() {
        let server = Server::start(|request| match request.path.as_str() {
            "/lie" => Response::status(200).body(Body::CutShort(b"abc".to_vec(), 10)),
            _ => Response::ok("text/plain", b"hello").header("X-Test", "1"),
        });
        let ask = |path: &str| {
            let mut stream = TcpStream::connect(server.address()).expect("connect");
            let head = format!("GET {path} HTTP/1.1\r\nAuthorization: Basic eA==\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("write");
            stream.shutdown(std::net::Shutdown::Write).expect("no more to say");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("read");
            text
        };
        assert!(ask("/").ends_with("X-Test: 1\r\nContent-Length: 5\r\n\r\nhello"));
        assert!(ask("/lie").ends_with("Content-Length: 10\r\n\r\nabc"));
        assert_eq!(server.seen()[0].authorization.as_deref(), Some("Basic eA=="));
    }
}
