//! The built-in image `lighter.local/hello`: one file, this very program, so that the first `run` needs no network.
//!
//! What it prints is the front-end's business: it finds itself called `hello`.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::MetadataExt;

use image::{ImageRecord, Progress};
use oci::Reference;

use crate::{Engine, Error, ErrorKind, Result};

/// Its name.
pub const REFERENCE: &str = "lighter.local/hello";

/// Variable that tells the program inside that it is the image's.
pub const VARIABLE: &str = "LIGHTER_HELLO";

/// Label that holds what the image was made from.
const LABEL: &str = "local.lighter.program";

/// Size of a tar block.
const BLOCK: usize = 512;

/// Whether a name is the built-in image's.
#[must_use]
pub fn is_hello(reference: &Reference) -> bool {
    reference.name() == REFERENCE && reference.digest().is_none() && reference.tag() == Some("latest")
}

impl Engine {
    /// The built-in image, made from this program when it is not here or another build's.
    pub(crate) fn provide_hello(&self, progress: &dyn Progress) -> Result<ImageRecord> {
        let reference: Reference = REFERENCE.parse()?;
        let program = File::open("/proc/self/exe")
            .map_err(|error| Error::new(ErrorKind::System, "the program cannot read itself").because(error))?;
        let metadata = program.metadata()?;
        // Cheaper than a digest of many megabytes, and no build leaves all of them alike.
        let key = format!(
            "{}-{}-{}-{}.{:09}",
            env!("CARGO_PKG_VERSION"),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        let options = image::archive::ImportOptions {
            reference: Some(reference.clone()),
            changes: vec![
                "ENTRYPOINT [\"/hello\"]".to_owned(),
                format!("ENV {VARIABLE}=1"),
                format!("LABEL {LABEL}={key}"),
            ],
            message: Some("made from the lighter program itself".to_owned()),
            platform: None,
        };
        self.bring_in(progress, |inbound, store| {
            if let Some(record) = store.get(&reference)?
                && record.config.labels.get(LABEL) == Some(&key)
            {
                return Ok(record);
            }
            let size = metadata.len();
            let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
            let end = std::iter::repeat_n(0, usize::try_from(padding).unwrap_or(0) + 2 * BLOCK).collect::<Vec<u8>>();
            let mut tar = Cursor::new(header("./", b'5', 0)?)
                .chain(Cursor::new(header("hello", b'0', size)?))
                .chain(program.take(size))
                .chain(Cursor::new(end));
            Ok(inbound.import(&mut tar, &options)?)
        })
    }
}

/// A header in the POSIX ustar format (pax(1), "ustar Interchange Format"): owned by root, mode 755, time 0.
pub(crate) fn header(name: &str, kind: u8, size: u64) -> Result<[u8; BLOCK]> {
    if size >= 1 << 33 {
        return Err(Error::new(ErrorKind::System, "the program is too large for an image"));
    }
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, text: &[u8]| block[offset..offset + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The checksum counts its own field as spaces.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_name_is_the_built_in_image() {
        for (name, expected) in [
            (REFERENCE, true),
            ("lighter.local/hello:latest", true),
            ("lighter.local/hello:1", false),
            ("hello", false),
            ("lighter.local/hello/x", false),
        ] {
            assert_eq!(is_hello(&name.parse().expect("a reference")), expected, "{name}");
        }
    }

    #[test]
    fn it_is_made_once_from_this_program() {
        let scratch = crate::testing::Scratch::new("hello");
        let engine = scratch.engine();
        let record = engine.provide_hello(&image::Quiet).expect("made");
        assert_eq!(record.config.entrypoint.as_deref(), Some(&["/hello".to_owned()][..]));
        assert!(record.config.env.contains(&"LIGHTER_HELLO=1".to_owned()));
        let chain: Vec<_> = record.chain().collect();
        assert_eq!(chain.len(), 1);
        let file = engine.paths.layers().join(chain[0].hex()).join("diff/hello");
        let (made, own) =
            (std::fs::metadata(&file).expect("there"), std::fs::metadata("/proc/self/exe").expect("there"));
        assert_eq!((made.len(), made.mode() & 0o7777), (own.len(), 0o755));
        let again = engine.provide_hello(&image::Quiet).expect("there already");
        assert_eq!(again.id(), record.id());
    }
}
