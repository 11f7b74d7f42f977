//! How far a pull, push, load or save is: bars on a terminal, a line per change otherwise.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Mutex;

use engine::{LayerRecord, Phase, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
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
    begun: bool,
    bars: Option<MultiProgress>,
    layers: HashMap<Digest, Layer>,
}

struct Layer {
    phase: Phase,
    bar: Option<ProgressBar>,
}

impl Shown {
    /// Progress that is shown, after `headline` if there is any.
    pub(crate) fn new(lines: Lines, headline: Option<String>) -> Self {
        Self { lines, headline, draws: crate::output::draws(), state: Mutex::default() }
    }

    /// Before the first layer: the headline, and a place to draw.
    fn open(&self, state: &mut State) {
        if state.begun {
            return;
        }
        state.begun = true;
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

/// Docker's words for a phase.
fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Downloading => "Downloading",
        Phase::Extracting => "Extracting",
        Phase::Exists => "Already exists",
        Phase::Done => "Pull complete",
        Phase::Saving => "Saving",
        Phase::Saved => "Saved",
        Phase::Preparing => "Preparing",
        Phase::Pushing => "Pushing",
        Phase::Pushed => "Pushed",
        Phase::There => "Layer already exists",
    }
}

fn is_end(phase: Phase) -> bool {
    matches!(phase, Phase::Done | Phase::Exists | Phase::Saved | Phase::Pushed | Phase::There)
}

fn bar(bars: &MultiProgress, name: &str, phase: Phase, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix}: {msg:14} [{bar:40}] {decimal_bytes}/{decimal_total_bytes}");
    let bar = bars.add(ProgressBar::new(total));
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(name.to_owned());
    bar.set_message(words(phase));
    bar
}

impl State {
    /// The layer's line on the terminal, made when it is first heard of.
    fn known(&mut self, layer: &Digest, phase: Phase, total: u64) -> (&mut Layer, bool) {
        let is_new = !self.layers.contains_key(layer);
        let bars = &self.bars;
        let make = || Layer { phase, bar: bars.as_ref().map(|bars| bar(bars, layer.short(), phase, total)) };
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
        match &known.bar {
            Some(bar) => {
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
