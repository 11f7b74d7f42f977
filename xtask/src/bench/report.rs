//! Rows as a table for people and as JSON for what compares them later.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::Outcome;

/// One contestant's samples in a row.
#[derive(Clone, Debug)]
pub(super) struct Contestant {
    /// Its name.
    pub(super) name: &'static str,
    /// What was measured, in the row's unit.
    pub(super) samples: Vec<f64>,
}

impl Contestant {
    /// The middle sample.
    fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[count / 2],
            count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        }
    }

    /// The smallest sample.
    fn least(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NAN, f64::min)
    }
}

/// A row of the table. The first contestant is the one under test.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What is measured.
    pub(super) name: &'static str,
    /// In what.
    pub(super) unit: &'static str,
    /// By whom.
    pub(super) contestants: Vec<Contestant>,
}

/// The rows as text. Ratios are lighter's median through the other's: below 1 is better than the peer.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        writeln!(text, "\n{} [{}]", row.name, row.unit).expect("write to a string");
        writeln!(text, "  {:<16} {:>10} {:>10} {:>14}", "", "median", "min", "lighter / it")
            .expect("write to a string");
        let own = own(row).map(Contestant::median);
        for contestant in &row.contestants {
            let ratio = own.map_or(f64::NAN, |own| own / contestant.median());
            let (median, least) = (contestant.median(), contestant.least());
            writeln!(text, "  {:<16} {median:>10.2} {least:>10.2} {ratio:>14.3}", contestant.name)
                .expect("write to a string");
        }
    }
    text
}

/// The contestant under test, unless it failed.
fn own(row: &Row) -> Option<&Contestant> {
    row.contestants.first().filter(|contestant| contestant.name.starts_with("lighter"))
}

/// Writes `bench.json` into the build directory.
pub(super) fn write(rows: &[Row], peers: &[String]) -> Outcome {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let rows: Vec<Value> = rows.iter().map(row_json).collect();
    let all = json!({"version": 1, "kernel": kernel.trim(), "cores": cores, "peers": peers, "rows": rows});
    let path = testkit::host::target_dir().join("bench.json");
    std::fs::write(&path, format!("{all:#}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
    crate::say(&format!("written to {}", path.display()));
    Ok(())
}

fn row_json(row: &Row) -> Value {
    let own = own(row).map(Contestant::median);
    let contestants: Vec<Value> = row
        .contestants
        .iter()
        .map(|contestant| {
            json!({"name": contestant.name, "median": contestant.median(), "min": contestant.least(),
                   "ratio": own.map(|own| own / contestant.median()), "samples": contestant.samples})
        })
        .collect();
    json!({"name": row.name, "unit": row.unit, "contestants": contestants})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let contestants = vec![
            Contestant { name: "lighter", samples: vec![3.0, 1.0, 2.0] },
            Contestant { name: "other", samples: vec![4.0, 8.0] },
        ];
        Row { name: "run", unit: "ms", contestants }
    }

    #[test]
    fn medians_minima_and_ratios() {
        let row = row();
        assert_eq!((row.contestants[0].median(), row.contestants[0].least()), (2.0, 1.0));
        assert_eq!(row.contestants[1].median(), 6.0);
        let value = row_json(&row);
        assert_eq!(value["contestants"][1]["ratio"], 2.0 / 6.0);
        let text = table(&[row]);
        assert!(text.contains("run [ms]") && text.contains("0.333"), "{text}");
    }
}
