//! How far a pull, push, load or save is: bars on a terminal, a line per change otherwise.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use engine::{LayerRecord, Phase, Progress};
use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressStyle};
use oci::Digest;

use crate::format::escape;

/// Where plain lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    /// `pull` and `load`: their result is the progress.
    Stdout,
    /// `run` and `create`: standard output belongs to the container.
    Stderr,
}

/// Shows layers. Costs nothing until the first one moves.
pub(crate) struct Shown {
    lines: Lines,
    /// Printed before the first layer.
    headline: Option<String>,
    draws: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: Option<Instant>,
    bars: Option<MultiProgress>,
    layers: HashMap<Digest, Layer>,
}

struct Layer {
    phase: Phase,
    bar: Option<ProgressBar>,
    /// Bytes that were here from an earlier pull.
    had: u64,
    /// Bytes that went over the wire, or into or out of an archive.
    moved: u64,
    /// Whether they came over the wire, and what the disk did then is not counted.
    wired: bool,
}

impl Shown {
    /// Progress that is shown, after `headline` if there is any.
    pub(crate) fn new(lines: Lines, headline: Option<String>) -> Self {
        Self { lines, headline, draws: crate::output::draws(), state: Mutex::default() }
    }

    /// On a terminal: how much it was, in what time.
    pub(crate) fn close(&self) {
        let Ok(state) = self.state.lock() else { return };
        let (Some(begun), true) = (state.begun, state.bars.is_some()) else { return };
        let moved: u64 = state.layers.values().map(|layer| layer.moved).sum();
        if moved > 0 {
            let text = summary(moved, state.layers.len(), begun.elapsed());
            // The last bar ends at the edge of the terminal, not with a line's end. One that is gone needs no summary.
            let _ = writeln!(std::io::stderr().lock(), "\n{text}");
        }
    }

    /// Before the first layer: the headline, and a place to draw.
    fn open(&self, state: &mut State) {
        if state.begun.is_some() {
            return;
        }
        state.begun = Some(Instant::now());
        if let Some(headline) = &self.headline {
            self.print(&escape::line(headline));
        }
        state.bars = self.draws.then(MultiProgress::new);
    }

    fn print(&self, text: &str) {
        // A reader of progress who left is no reason to stop the work.
        let _ = match self.lines {
            Lines::Stdout => writeln!(std::io::stdout().lock(), "{text}"),
            Lines::Stderr => writeln!(std::io::stderr().lock(), "{text}"),
        };
    }
}

/// `12.3 MB in 3 layers, 1.2 s, 10.2 MB/s`.
fn summary(moved: u64, layers: usize, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(0.001);
    let plural = if layers == 1 { "" } else { "s" };
    let rate = DecimalBytes((moved as f64 / seconds) as u64);
    format!("{} in {layers} layer{plural}, {seconds:.1} s, {rate}/s", DecimalBytes(moved))
}

/// Docker's words for a phase.
fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Downloading => "Downloading",
        Phase::Resuming => "Resuming",
        Phase::Extracting => "Extracting",
        Phase::Exists => "Already exists",
        Phase::Done => "Pull complete",
        Phase::Saving => "Saving",
        Phase::Saved => "Saved",
        Phase::Preparing => "Preparing",
        Phase::Pushing => "Pushing",
        Phase::Pushed => "Pushed",
        Phase::There => "Layer already exists",
        Phase::Foreign => "Skipped foreign layer",
    }
}

fn is_end(phase: Phase) -> bool {
    matches!(phase, Phase::Done | Phase::Exists | Phase::Saved | Phase::Pushed | Phase::There | Phase::Foreign)
}

/// A layer's line while bytes go: how many, how fast, and how long it will take.
const MOVING: &str =
    "{prefix}: {msg:11} [{bar:25}] {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>12} {eta:>4}";

fn bar(bars: &MultiProgress, name: &str, phase: Phase, total: u64) -> ProgressBar {
    let bar = bars.add(ProgressBar::new(total));
    if let Ok(style) = ProgressStyle::with_template("{prefix}: {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar.set_message(words(phase));
    bar
}

/// From the first byte on, so that the rate is not that of waiting.
fn start(bar: &ProgressBar) {
    if let Ok(style) = ProgressStyle::with_template(MOVING) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.reset();
}

impl State {
    /// The layer's line on the terminal, made when it is first heard of.
    fn known(&mut self, layer: &Digest, phase: Phase, total: u64) -> (&mut Layer, bool) {
        let is_new = !self.layers.contains_key(layer);
        let bars = &self.bars;
        let make = || Layer {
            phase,
            bar: bars.as_ref().map(|bars| bar(bars, layer.short(), phase, total)),
            had: 0,
            moved: 0,
            wired: false,
        };
        (self.layers.entry(layer.clone()).or_insert_with(make), is_new)
    }
}

impl Progress for Shown {
    fn begin(&self, layers: &[LayerRecord]) {
        let Ok(mut state) = self.state.lock() else { return };
        self.open(&mut state);
        if state.bars.is_some() {
            for layer in layers {
                let (known, _) = state.known(&layer.descriptor.digest, Phase::Downloading, 0);
                if let Some(bar) = &known.bar {
                    bar.set_message("Waiting");
                }
            }
        }
    }

    fn layer(&self, layer: &Digest, phase: Phase, current: u64, total: u64) {
        self.show(layer, phase, current, total, words(phase));
    }

    fn warning(&self, text: &str) {
        if let Ok(state) = self.state.lock()
            && let Some(bars) = &state.bars
        {
            bars.suspend(|| crate::output::warning(text));
            return;
        }
        crate::output::warning(text);
    }

    fn mounted(&self, layer: &Digest, from: &str) {
        self.show(layer, Phase::Pushed, 0, 0, &format!("Mounted from {from}"));
    }
}

impl Shown {
    fn show(&self, layer: &Digest, phase: Phase, current: u64, total: u64, words: &str) {
        let Ok(mut state) = self.state.lock() else { return };
        self.open(&mut state);
        let name = layer.short();
        let (known, is_new) = state.known(layer, phase, total);
        let changed = known.phase != phase;
        known.phase = phase;
        match phase {
            Phase::Resuming => known.had = current,
            Phase::Downloading | Phase::Pushing | Phase::Saving => {
                known.wired = true;
                known.moved = current.saturating_sub(known.had);
            }
            // `load` has nothing but this.
            Phase::Extracting if !known.wired => known.moved = current,
            _ => {}
        }
        match &known.bar {
            Some(bar) => {
                // Nothing of a layer has moved as long as it has no bar.
                if current > 0 && !is_end(phase) && bar.position() == 0 {
                    start(bar);
                }
                if changed && known.had > 0 {
                    // The disk's rate says nothing of the wire's.
                    bar.reset_eta();
                }
                bar.set_length(total.max(current));
                bar.set_position(current);
                bar.set_message(words.to_owned());
                if is_end(phase) && !bar.is_finished() {
                    if let Ok(style) = ProgressStyle::with_template("{prefix}: {msg}") {
                        bar.set_style(style);
                    }
                    bar.finish();
                }
            }
            None if is_new && phase == Phase::Downloading => self.print(&format!("{name}: Pulling fs layer")),
            // How fast bytes go is for bars; lines tell what has become of a layer.
            None if matches!(phase, Phase::Saving | Phase::Pushing) => {}
            None if is_new || changed => self.print(&format!("{name}: {}", escape::line(words))),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_tell_amount_time_and_rate() {
        assert_eq!(summary(25_000_000, 3, Duration::from_millis(2500)), "25.00 MB in 3 layers, 2.5 s, 10.00 MB/s");
        assert!(summary(10, 1, Duration::ZERO).starts_with("10 B in 1 layer, "));
    }

    #[test]
    fn templates_are_sound() {
        assert!(ProgressStyle::with_template(MOVING).is_ok());
    }
}
