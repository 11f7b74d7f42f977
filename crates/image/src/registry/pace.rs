//! A peer that sends too little is one that does not answer: a byte now and then keeps no connection alive.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::Timeouts;

/// A reader that fails when it gets less than the least rate while it waits. Time in which nobody asks for bytes is not
/// the peer's.
#[derive(Debug)]
pub(super) struct Paced<R> {
    inner: R,
    timeouts: Timeouts,
    waited: Duration,
    bytes: u64,
}

impl<R: Read> Paced<R> {
    pub(super) fn new(inner: R, timeouts: Timeouts) -> Self {
        Self { inner, timeouts, waited: Duration::ZERO, bytes: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let asked = Instant::now();
        let n = self.inner.read(buf)?;
        self.waited += asked.elapsed();
        self.bytes += n as u64;
        if self.waited >= self.timeouts.idle {
            let least = self.waited.as_secs_f64() * self.timeouts.least_rate as f64;
            if n > 0 && (self.bytes as f64) < least {
                let text = format!("only {} bytes came in {:.1} s", self.bytes, self.waited.as_secs_f64());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Drip(u64);

    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(self.0));
            buf[0] = 0;
            Ok(1)
        }
    }

    #[test]
    fn who_drips_is_cut_off_and_who_waits_is_not() {
        let timeouts = Timeouts { idle: Duration::from_millis(40), least_rate: 1000, ..Timeouts::default() };
        let begin = Instant::now();
        let error = io::copy(&mut Paced::new(Drip(5), timeouts), &mut io::sink()).expect_err("too slow");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(5));
        let mut fast = Paced::new(io::repeat(0), timeouts);
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(10));
            fast.read_exact(&mut [0; 10]).expect("the reader was slow, not the peer");
        }
    }
}
