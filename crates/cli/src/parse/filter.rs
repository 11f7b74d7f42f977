//! `--filter KEY=VALUE`.

use engine::{ContainerFilter, ImageFilter, PruneFilter, VolumeFilter};
use jiff::Timestamp;

/// Adds one filter of `ps`.
///
/// # Errors
/// An unknown key or a bad value.
pub(crate) fn container(text: &str, filter: &mut ContainerFilter) -> Result<(), String> {
    let (key, value) = super::pair(text)?;
    match key.as_str() {
        "id" => filter.id.push(value),
        "name" => filter.name.push(value.trim_start_matches('/').to_owned()),
        "label" => filter.label.push(value),
        "ancestor" => filter.ancestor.push(value),
        "volume" => filter.volume.push(value),
        "before" => filter.before = Some(value),
        "since" => filter.since = Some(value),
        "exited" => filter.exited.push(value.parse().map_err(|_| format!("{value:?} is no exit code"))?),
        "status" => match value.as_str() {
            "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead" => {
                filter.status.push(value);
            }
            other => return Err(format!("{other:?} is no status")),
        },
        "health" | "network" | "publish" | "expose" | "is-task" => {
            return Err(format!("the filter {key:?} is not available yet"));
        }
        other => return Err(format!("there is no filter {other:?}")),
    }
    Ok(())
}

/// Adds one filter of `images`. Spans count back from `now`.
///
/// # Errors
/// An unknown key or a bad value.
pub(crate) fn image(text: &str, now: Timestamp, filter: &mut ImageFilter) -> Result<(), String> {
    let (key, value) = super::pair(text)?;
    match key.as_str() {
        "reference" => filter.reference.push(value),
        "label" => filter.label.push(value),
        "before" => filter.before = Some(value),
        "since" => filter.since = Some(value),
        "dangling" => match value.as_str() {
            "1" | "true" => filter.dangling = Some(true),
            "0" | "false" => filter.dangling = Some(false),
            other => return Err(format!("{other:?} is neither true nor false")),
        },
        "until" => {
            let until = super::moment::parse(&value, now)?;
            filter.until = Some(filter.until.map_or(until, |known| known.min(until)));
        }
        other => return Err(format!("there is no filter {other:?}")),
    }
    Ok(())
}

/// Adds one filter of `volume ls`.
///
/// # Errors
/// An unknown key or a bad value.
pub(crate) fn volume(text: &str, filter: &mut VolumeFilter) -> Result<(), String> {
    let (key, value) = super::pair(text)?;
    match key.as_str() {
        "name" => filter.name.push(value),
        "driver" => filter.driver.push(value),
        "label" => filter.label.push(value),
        "dangling" => match value.as_str() {
            "1" | "true" => filter.dangling = Some(true),
            "0" | "false" => filter.dangling = Some(false),
            other => return Err(format!("{other:?} is neither true nor false")),
        },
        other => return Err(format!("there is no filter {other:?}")),
    }
    Ok(())
}

/// Adds one filter of a prune. Spans count back from `now`.
///
/// # Errors
/// An unknown key or a bad value.
pub(crate) fn prune(text: &str, now: Timestamp, filter: &mut PruneFilter) -> Result<(), String> {
    let (key, value) = super::pair(text)?;
    match key.as_str() {
        "until" => {
            let until = super::moment::parse(&value, now)?;
            filter.until = Some(filter.until.map_or(until, |known| known.min(until)));
        }
        "label" => filter.label.push(value),
        "label!" => filter.label_not.push(value),
        "dangling" => match value.as_str() {
            "1" | "true" => {}
            "0" | "false" => filter.all = true,
            other => return Err(format!("{other:?} is neither true nor false")),
        },
        other => return Err(format!("there is no filter {other:?}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_parse() {
        let mut filter = ContainerFilter::default();
        for text in ["name=/web", "name=db", "label=a=b", "status=exited", "exited=3", "id=ab", "ancestor=busybox"] {
            container(text, &mut filter).expect(text);
        }
        assert_eq!(filter.name, ["web", "db"]);
        assert_eq!(filter.label, ["a=b"]);
        assert_eq!((filter.exited, filter.status), (vec![3], vec!["exited".to_owned()]));
        let mut filter = ContainerFilter::default();
        for bad in ["name", "bogus=1", "exited=x", "status=odd", "network=a", "=x"] {
            assert!(container(bad, &mut filter).is_err(), "{bad}");
        }
        let mut filter = ImageFilter::default();
        for text in ["reference=a*", "dangling=true", "label=x", "before=a", "since=b", "until=1h"] {
            image(text, Timestamp::UNIX_EPOCH, &mut filter).expect(text);
        }
        assert_eq!(filter.dangling, Some(true));
        let now = Timestamp::new(1_700_000_000, 0).expect("valid");
        let mut pruned = PruneFilter::default();
        for text in ["until=24h", "until=1h", "label=a", "label!=b=c"] {
            prune(text, now, &mut pruned).expect(text);
        }
        assert_eq!(pruned.until.map(Timestamp::as_second), Some(1_700_000_000 - 86_400));
        assert_eq!((pruned.label, pruned.label_not), (vec!["a".to_owned()], vec!["b=c".to_owned()]));
        assert!(prune("until=x", now, &mut PruneFilter::default()).is_err());
        for bad in ["dangling=maybe", "until=soon", "bogus=1"] {
            assert!(image(bad, Timestamp::UNIX_EPOCH, &mut filter).is_err(), "{bad}");
        }
    }
}
