//! A proxy on loopback that leads every CONNECT to one place, whatever its name.

use std::io::{BufRead, BufReader, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// The proxy. It ends with the test program.
pub struct Tunnel {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    /// Starts one that leads to `target` (host and port).
    ///
    /// # Panics
    /// When loopback has no free port.
    #[must_use]
    pub fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (target, log) = (target.clone(), Arc::clone(&log));
                std::thread::spawn(move || {
                    // A side that hangs up ends the other.
                    drop(lead(stream, &target, &log));
                });
            }
        });
        Self { port, asked }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The places that were asked for.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn lead(stream: TcpStream, target: &str, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
    }
    let mut words = first.split(' ');
    let mut client = stream;
    if words.next() != Some("CONNECT") {
        return client.write_all(b"HTTP/1.1 405 -\r\nContent-Length: 0\r\n\r\n");
    }
    log.lock().unwrap_or_else(PoisonError::into_inner).push(words.next().unwrap_or_default().to_owned());
    let server = TcpStream::connect(target)?;
    client.write_all(b"HTTP/1.1 200 -\r\n\r\n")?;
    let (mut back_from, mut back_to) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        drop(copy(&mut back_from, &mut back_to));
        drop(back_to.shutdown(Shutdown::Both));
    });
    copy(&mut reader, &mut &server)?;
    server.shutdown(Shutdown::Both)
}
