//! `ps`.

use std::collections::BTreeMap;

use container::record::{Config, State};
use container::{ContainerDir, ContainerId};
use serde::Deserialize;

use super::remove::word;
use super::{ContainerFilter, ContainerSummary};
use crate::{Engine, Error, ErrorKind, Result};

/// The part of [`Said`](super::Said) that a list shows.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Shown {
    network: String,
    mounts: Vec<super::SaidMount>,
}

/// States a filter may name.
const STATES: [&str; 7] = ["created", "running", "paused", "restarting", "exited", "removing", "dead"];

impl Engine {
    /// The containers a filter lets through, newest first. A container whose records are damaged is listed with what is
    /// known of it.
    ///
    /// # Errors
    /// A filter that means nothing; a directory that cannot be read.
    pub fn list(&self, filter: &ContainerFilter) -> Result<Vec<ContainerSummary>> {
        if let Some(unknown) = filter.status.iter().find(|status| !STATES.contains(&status.as_str())) {
            return Err(Error::new(ErrorKind::Invalid, format!("invalid filter 'status={unknown}'"))
                .hint(format!("states: {}", STATES.join(", "))));
        }
        let bound = |said: &Option<String>| -> Result<Option<String>> {
            match said {
                None => Ok(None),
                Some(said) => Ok(Some(self.container_dir(&self.lookup(said)?)?.config()?.created)),
            }
        };
        let (before, since) = (bound(&filter.before)?, bound(&filter.since)?);
        let ancestors = self.ancestors(&filter.ancestor)?;
        let mut found = Vec::new();
        for id in ContainerDir::list(&self.paths.containers())? {
            let Some(summary) = self.summary(&id, filter.size)? else { continue };
            let in_time = before.as_ref().is_none_or(|before| summary.created < *before)
                && since.as_ref().is_none_or(|since| summary.created > *since);
            if in_time && admits(filter, &ancestors, &summary) {
                found.push(summary);
            }
        }
        found.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    /// Image ids that `ancestor` filters mean, besides the names themselves.
    fn ancestors(&self, said: &[String]) -> Result<Vec<oci::Digest>> {
        if said.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.image_store()?;
        Ok(said.iter().filter_map(|name| store.resolve(name).ok().map(|record| record.id().clone())).collect())
    }

    /// One line, `None` for a container that went away meanwhile.
    fn summary(&self, id: &ContainerId, size: bool) -> Result<Option<ContainerSummary>> {
        let dir = match self.container_dir(id) {
            Err(error) if error.kind() == ErrorKind::NoSuchContainer => return Ok(None),
            dir => dir?,
        };
        let (config, observed) = match (dir.config(), dir.observe()) {
            (Ok(config), Ok(observed)) => (config, observed),
            (config, observed) => {
                if !dir.path().is_dir() {
                    return Ok(None);
                }
                let reason = config.as_ref().err().or(observed.as_ref().err()).map(ToString::to_string);
                return Ok(Some(damaged(id, config.ok().as_ref(), reason.unwrap_or_default())));
            }
        };
        let state = observed.state();
        let status = observed.status;
        let lost = state != status.state;
        let shown = Shown::deserialize(&config.said).unwrap_or_default();
        let mut summary = base(&config);
        summary.size = if size { Some(self.size_of(&dir, &config)?) } else { None };
        summary.pid = if container::dir::is_active(state) { status.pid } else { 0 };
        summary.exit_code = if lost { container::recover::UNKNOWN_EXIT } else { status.exit_code };
        summary.state = state;
        summary.started = status.started;
        summary.finished = status.finished;
        summary.network = shown.network;
        for mount in shown.mounts {
            match mount.kind.as_str() {
                "volume" => {
                    summary.mounts.push(mount.name.clone());
                    summary.volumes.push(mount.name);
                }
                _ if !mount.source.is_empty() => summary.mounts.push(mount.source),
                _ => {}
            }
            summary.mount_points.push(mount.target);
        }
        Ok(Some(summary))
    }
}

fn base(config: &Config) -> ContainerSummary {
    let image = match (&config.image, &config.rootfs_dir) {
        (Some(image), _) => image.said.clone(),
        (None, Some(dir)) => dir.display().to_string(),
        (None, None) => String::new(),
    };
    ContainerSummary {
        id: config.id.clone(),
        name: config.name.to_string(),
        image,
        image_id: config.image.as_ref().map(|image| image.id.clone()),
        command: config.spec.process.as_ref().map(|process| process.args.clone()).unwrap_or_default(),
        created: config.created.clone(),
        state: State::Dead,
        started: String::new(),
        finished: String::new(),
        exit_code: 0,
        pid: 0,
        labels: config.labels.clone(),
        network: String::new(),
        mounts: Vec::new(),
        mount_points: Vec::new(),
        volumes: Vec::new(),
        size: None,
        damaged: None,
    }
}

fn damaged(id: &ContainerId, config: Option<&Config>, reason: String) -> ContainerSummary {
    let known = config.map(base);
    let mut summary = known.unwrap_or_else(|| ContainerSummary {
        id: id.clone(),
        name: id.short().to_owned(),
        image: String::new(),
        image_id: None,
        command: Vec::new(),
        created: String::new(),
        state: State::Dead,
        started: String::new(),
        finished: String::new(),
        exit_code: 0,
        pid: 0,
        labels: BTreeMap::new(),
        network: String::new(),
        mounts: Vec::new(),
        mount_points: Vec::new(),
        volumes: Vec::new(),
        size: None,
        damaged: None,
    });
    summary.damaged = Some(reason);
    summary
}

fn admits(filter: &ContainerFilter, ancestors: &[oci::Digest], summary: &ContainerSummary) -> bool {
    let any = |values: &[String], holds: &dyn Fn(&str) -> bool| values.is_empty() || values.iter().any(|v| holds(v));
    let implied = !filter.status.is_empty() || !filter.exited.is_empty();
    let listed = filter.all
        || implied
        || filter.before.is_some()
        || filter.since.is_some()
        || matches!(summary.state, State::Starting | State::Running | State::Paused | State::Stopping);
    listed
        && any(&filter.name, &|part| summary.name.contains(part.trim_start_matches('/')))
        && any(&filter.id, &|prefix| summary.id.as_str().starts_with(prefix))
        && any(&filter.status, &|status| word(summary.state) == status)
        && any(&filter.volume, &|said| summary.volumes.iter().chain(&summary.mount_points).any(|known| known == said))
        && filter.label.iter().all(|label| has_label(&summary.labels, label))
        && (filter.exited.is_empty()
            || (matches!(summary.state, State::Exited | State::Dead) && filter.exited.contains(&summary.exit_code)))
        && any(&filter.ancestor, &|name| {
            summary.image == name || summary.image_id.as_ref().is_some_and(|id| ancestors.contains(id))
        })
}

/// Whether labels hold `KEY` or `KEY=VALUE`.
pub(crate) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(name: &str, state: State, exit_code: i32) -> ContainerSummary {
        let id = ContainerId::from_random(&[7; 32]);
        let labels = [("tier".to_owned(), "web".to_owned())].into();
        ContainerSummary { state, exit_code, labels, name: name.to_owned(), ..damaged(&id, None, String::new()) }
    }

    #[test]
    fn filters_are_alternatives_of_a_key_and_all_keys() {
        let of = |change: fn(&mut ContainerFilter), summary: &ContainerSummary| {
            let mut filter = ContainerFilter::default();
            change(&mut filter);
            admits(&filter, &[], summary)
        };
        let running = summary("web-1", State::Running, 0);
        let exited = summary("db", State::Exited, 3);
        assert!(of(|_| {}, &running) && !of(|_| {}, &exited));
        assert!(of(|filter| filter.all = true, &exited));
        assert!(of(|filter| filter.status = vec!["exited".into()], &exited));
        assert!(of(|filter| filter.exited = vec![3], &exited));
        assert!(!of(|filter| filter.exited = vec![0], &exited));
        assert!(!of(|filter| filter.exited = vec![0], &running));
        assert!(of(|filter| filter.name = vec!["x".into(), "web".into()], &running));
        assert!(!of(|filter| filter.name = vec!["db".into()], &running));
        assert!(of(|filter| filter.label = vec!["tier".into(), "tier=web".into()], &running));
        assert!(!of(|filter| filter.label = vec!["tier".into(), "tier=db".into()], &running));
        assert!(of(|filter| filter.id = vec!["0707".into()], &running));
        let mut using = summary("db", State::Running, 0);
        (using.volumes, using.mount_points) = (vec!["data".into()], vec!["/var/data".into()]);
        for (said, expected) in [("data", true), ("/var/data", true), ("dat", false)] {
            let filter = ContainerFilter { volume: vec![said.into()], ..ContainerFilter::default() };
            assert_eq!(admits(&filter, &[], &using), expected, "{said}");
        }
    }
}
