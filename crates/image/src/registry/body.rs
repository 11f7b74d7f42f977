//! A blob's body, resumed where it broke.

use std::io::{self, Read};

use oci::Digest;
use oci::image::Descriptor;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use ureq::http::{Response, StatusCode};

use super::http::{Http, Target};
use crate::assemble::Cancel;
use crate::{Error, Result};

/// Progress after which earlier failures are forgiven, in bytes.
const FORGIVE_AFTER: u64 = 1 << 20;

/// Reads as the whole blob. Gives at most the descriptor's size; whether the content is right is for the reader to say.
pub(super) struct Body<'a> {
    /// Who has it and where, in the order in which they are asked; at least one.
    serving: Vec<(&'a Http, Target)>,
    /// Which of them is asked now.
    turn: usize,
    cancel: &'a Cancel,
    digest: Digest,
    size: u64,
    offset: u64,
    reader: Option<Box<dyn Read + Send>>,
    failures: u32,
    last_failure_at: u64,
    /// Whether parts of it cannot be had.
    whole_only: bool,
}

impl<'a> Body<'a> {
    /// The blob from `offset` on.
    pub(super) fn open(
        serving: Vec<(&'a Http, Target)>,
        descriptor: &Descriptor,
        offset: u64,
        cancel: &'a Cancel,
    ) -> Result<Self> {
        let mut body = Self {
            serving,
            turn: 0,
            cancel,
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            offset,
            reader: None,
            failures: 0,
            last_failure_at: offset,
            whole_only: false,
        };
        // What is here already is looked at first; a connection would wait for that in vain.
        if offset == 0 {
            body.connect()?;
        }
        Ok(body)
    }

    fn http(&self) -> &'a Http {
        self.serving[self.turn].0
    }

    /// Goes on with the next endpoint, if there is one.
    fn turn_to_next(&mut self) -> bool {
        let more = self.turn + 1 < self.serving.len();
        self.turn += usize::from(more);
        self.whole_only = false;
        more
    }

    fn connect(&mut self) -> Result<()> {
        loop {
            let error = match self.connect_here() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if matches!(error, Error::Unreachable { .. }) {
                self.http().give_up();
            }
            if matches!(error, Error::Cancelled) || !self.turn_to_next() {
                return Err(error);
            }
        }
    }

    fn connect_here(&mut self) -> Result<()> {
        let http = self.http();
        if self.offset > 0 && !self.whole_only {
            let range = format!("bytes={}-", self.offset);
            match http.get(&self.serving[self.turn].1, &[(RANGE, range.as_str())], self.cancel) {
                Ok(response) if response.status() != StatusCode::PARTIAL_CONTENT => return self.begin_anew(response),
                Ok(response) => {
                    let said = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
                    if said.starts_with(&format!("bytes {}-", self.offset)) {
                        self.check_length(&response, self.size - self.offset)?;
                        self.reader = Some(Box::new(http.paced(response)));
                        return Ok(());
                    }
                }
                Err(Error::Status { status: 416, .. }) => {}
                Err(error) => return Err(error),
            }
            // It gives another part than it was asked for, or none.
            self.whole_only = true;
        }
        let response = http.get(&self.serving[self.turn].1, &[], self.cancel)?;
        self.begin_anew(response)
    }

    /// From the blob's beginning: what is here already is the same content, or its digest tells.
    fn begin_anew(&mut self, response: Response<ureq::Body>) -> Result<()> {
        self.check_length(&response, self.size)?;
        let http = self.http();
        let mut reader = http.paced(response);
        let mut again = reader.by_ref().take(self.offset);
        io::copy(&mut again, &mut io::sink()).map_err(|e| http.broken(&e.to_string()))?;
        self.reader = Some(Box::new(reader));
        Ok(())
    }

    fn check_length(&self, response: &Response<ureq::Body>, expected: u64) -> Result<()> {
        let length = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        match length.filter(|length| *length != expected) {
            None => Ok(()),
            Some(actual) => {
                Err(Error::Size { what: format!("the registry's answer for {}", self.digest), expected, actual })
            }
        }
    }

    /// One read of the present connection; breaking off early is an error.
    fn step(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.reader.is_none() {
            self.connect()?;
        }
        let Some(reader) = &mut self.reader else { return Err(Error::Cancelled) };
        let left = self.size - self.offset;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        match reader.read(&mut buf[..most]) {
            Ok(0) => Err(self
                .http()
                .broken(&format!("it ended {} after {} of {} bytes", self.digest, self.offset, self.size))),
            Ok(n) => Ok(n),
            Err(error) => Err(self.http().broken(&format!("{}: {error}", self.digest))),
        }
    }

    fn has_more(&mut self) -> bool {
        // A connection that breaks here has delivered all that was asked for.
        self.reader.as_mut().is_some_and(|reader| matches!(reader.read(&mut [0; 1]), Ok(1)))
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.offset == self.size {
            if self.has_more() {
                return Err(Error::TooLarge { what: format!("blob {}", self.digest), limit: self.size }.into_io());
            }
            self.reader = None;
            return Ok(0);
        }
        loop {
            let error = match self.step(buf) {
                Ok(n) => {
                    self.offset += n as u64;
                    return Ok(n);
                }
                Err(error) => error,
            };
            self.reader = None;
            if self.offset - self.last_failure_at >= FORGIVE_AFTER {
                self.failures = 0;
            }
            self.failures += 1;
            self.last_failure_at = self.offset;
            if self.failures >= self.http().attempts() || !matches!(error, Error::Transport { .. }) {
                if matches!(error, Error::Cancelled) || !self.turn_to_next() {
                    return Err(error.into_io());
                }
                self.failures = 0;
                continue;
            }
            self.http().pause(self.failures, None, self.cancel).map_err(Error::into_io)?;
        }
    }
}
