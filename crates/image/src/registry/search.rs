//! `search`: Docker's index (`/v1/search`), and the catalog that other registries have in its place.

use oci::reference::DEFAULT_DOMAIN;
use serde::Deserialize;
use ureq::http::header::ACCEPT;

use super::http::{Access, Target};
use super::listing::catalog;
use super::place::percent_encode;
use super::{Client, Options};
use crate::assemble::Cancel;
use crate::content::read_bounded;
use crate::{Error, Result};

/// Where Docker's images are searched; images themselves are elsewhere.
const DOCKER_INDEX: &str = "index.docker.io";
/// Largest answer read, in bytes: a hundred results with descriptions.
const ANSWER_MAX: u64 = 4 << 20;

/// One repository that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its name, as the registry says it.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// How many like it.
    pub stars: u64,
    /// Whether Docker keeps it.
    pub official: bool,
    /// Whether Docker built it.
    pub automated: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: u64,
    #[serde(default)]
    is_official: bool,
    #[serde(default)]
    is_automated: bool,
}

impl Client {
    /// What `registry` (host and port) finds for `term`, at most `limit`. A registry that cannot search, as Debian's
    /// `docker-registry`, is asked for all its repositories; those whose names hold `term` are what it finds.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Unreachable`], [`Error::Transport`], [`Error::Status`], [`Error::Unsupported`] when
    /// it tells its repositories to nobody.
    pub fn search(registry: &str, options: Options, term: &str, limit: usize) -> Result<Vec<Hit>> {
        let mut endpoint = options.configuration.registry(registry, options.insecure)?;
        let is_docker = registry == DEFAULT_DOMAIN;
        if is_docker {
            DOCKER_INDEX.clone_into(&mut endpoint.authority);
        }
        let client = Self::of(vec![endpoint], options, Access::Login);
        let http = client.registry();
        let target = Target::Path(format!("/v1/search?q={}&n={limit}", percent_encode(term)));
        let response = match http.get(&target, &[(ACCEPT, "application/json")], &Cancel::default()) {
            Ok(response) => response,
            Err(Error::NotFound { .. } | Error::Status { status: 400..=499, .. }) if !is_docker => {
                return in_catalog(&client, registry, term, limit);
            }
            Err(error) => return Err(error),
        };
        let what = format!("what registry {registry} found");
        let bytes = read_bounded(&mut http.paced(response), ANSWER_MAX, &what)?;
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|error| Error::malformed(what, error.to_string()))?;
        let hit = |found: Found| Hit {
            name: found.name,
            description: found.description.unwrap_or_default(),
            stars: found.star_count,
            official: found.is_official,
            automated: found.is_automated,
        };
        Ok(answer.results.into_iter().filter(|found| !found.name.is_empty()).take(limit).map(hit).collect())
    }
}

fn in_catalog(client: &Client, registry: &str, term: &str, limit: usize) -> Result<Vec<Hit>> {
    let all = catalog(client.registry()).map_err(|error| match error {
        Error::NotFound { .. } | Error::Status { status: 400..=499, .. } => {
            Error::Unsupported(format!("registry {registry} neither searches nor lists its repositories"))
        }
        error => error,
    })?;
    let hit = |name: &String| Hit {
        name: format!("{registry}/{name}"),
        description: String::new(),
        stars: 0,
        official: false,
        automated: false,
    };
    Ok(all.iter().filter(|name| name.contains(term)).take(limit).map(hit).collect())
}
