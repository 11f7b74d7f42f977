//! `state`, `list`, `ps`: what there is.

use serde_json::{Value, json};

use super::arguments::Flags;
use super::failure::Failure;
use super::store::{Record, Status, Store};
use super::{members, print};

/// `state`.
pub(super) fn state(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let container = Store::new(global).open(flags.id())?;
    let record = container.whole_record()?;
    let (status, _) = container.status(&record)?;
    print_json(&describe(&record, status))?;
    Ok(0)
}

fn describe(record: &Record, status: Status) -> Value {
    let pid = record.process.filter(|_| status != Status::Stopped).map_or(0, |process| process.pid);
    json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": pid,
        "status": status.word(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
        "owner": if record.owner == 0 { "root".to_owned() } else { record.owner.to_string() },
    })
}

/// `list`. A container whose record is missing or damaged is listed as stopped, and only that one.
pub(super) fn list(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let store = Store::new(global);
    let ids = store.ids()?;
    if flags.is("quiet") {
        print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
        return Ok(0);
    }
    let mut containers = Vec::with_capacity(ids.len());
    for id in ids {
        // Gone since the directory was read: not there.
        let Ok(container) = store.open(&id) else { continue };
        let described = match container.record() {
            Ok(Some(record)) => container.status(&record).map(|(status, _)| describe(&record, status)).ok(),
            Ok(None) | Err(_) => None,
        };
        let damaged = || json!({"id": id, "pid": 0, "status": "stopped", "bundle": "", "created": "", "owner": ""});
        containers.push(described.unwrap_or_else(damaged));
    }
    match flags.get("format").unwrap_or("table") {
        "json" => print_json(&Value::from(containers))?,
        "table" => print(&table(&containers))?,
        other => return Err(unknown_format(other)),
    }
    Ok(0)
}

fn table(containers: &[Value]) -> String {
    const COLUMNS: [&str; 6] = ["id", "pid", "status", "bundle", "created", "owner"];
    let cell = |container: &Value, column: &str| match &container[column] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows = vec![COLUMNS.map(str::to_ascii_uppercase)];
    rows.extend(containers.iter().map(|container| COLUMNS.map(|column| cell(container, column))));
    let widths: Vec<usize> =
        (0..COLUMNS.len()).map(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// `ps`: the processes of the container, by their ids here.
pub(super) fn ps(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let container = Store::new(global).open(flags.id())?;
    let record = container.whole_record()?;
    let pids = members::pids(&container, &record)?;
    match flags.get("format").unwrap_or("table") {
        "json" => print(&format!("{}\n", Value::from(pids)))?,
        "table" => print(&format!("PID\n{}", pids.iter().map(|pid| format!("{pid}\n")).collect::<String>()))?,
        other => return Err(unknown_format(other)),
    }
    Ok(0)
}

fn unknown_format(format: &str) -> Failure {
    Failure::new(format!("--format: {format:?} is neither json nor table"))
}

fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(error.to_string()))?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let containers =
            [json!({"id": "a", "pid": 12, "status": "running", "bundle": "/b", "created": "T", "owner": "root"})];
        let expected = "ID   PID   STATUS    BUNDLE   CREATED   OWNER\na    12    running   /b       T         root\n";
        assert_eq!(table(&containers), expected);
    }
}
