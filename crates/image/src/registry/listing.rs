//! Lists that registries keep: a repository's tags, and what refers to a manifest.
//!
//! Both come in pages (distribution specification, "Listing tags", "Listing referrers"). A registry that knows no
//! referrers has them in an index under a tag made of the digest, which whoever pushes one keeps up ("Referrers tag
//! schema").

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use oci::Digest;
use oci::image::{Descriptor, Document, Index, Manifest, media_type};
use serde::Deserialize;
use ureq::http::header::{ACCEPT, CONTENT_TYPE, LINK};
use ureq::http::{HeaderMap, Method};

use super::http::{Http, Request, Target};
use super::place::percent_encode;
use super::{Client, Need, manifest};
use crate::assemble::{Cancel, MANIFEST_MAX};
use crate::content::read_bounded;
use crate::{Error, Result};

/// Most pages of a list, and most entries of all of them.
const PAGES_MAX: usize = 1000;
const ENTRIES_MAX: usize = 100_000;
/// Entries asked for at a time.
const PAGE: usize = 1000;

impl Client {
    /// The repository's tags, as the registry orders them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::TooLarge`] and their kin.
    pub fn tags(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        self.first(Need::Resolve, |http| {
            let mut tags = Vec::new();
            let mut seen = BTreeSet::new();
            pages(http, http.path(&format!("tags/list?n={PAGE}")), "application/json", |_, bytes| {
                let page: Page = serde_json::from_slice(bytes).map_err(|error| unlike(http, "tags", &error))?;
                let new = page.tags.unwrap_or_default().into_iter().filter(|tag| seen.insert(tag.clone()));
                tags.extend(new);
                Ok(tags.len())
            })?;
            Ok(tags)
        })
    }

    /// What refers to the manifest `digest`: signatures, lists of contents and the like, of `kind` if one is given.
    ///
    /// # Errors
    /// As [`Client::tags`]. That nothing refers to it is none.
    pub fn referrers(&self, digest: &Digest, kind: Option<&str>) -> Result<Vec<Descriptor>> {
        let mut found = self.first(Need::Resolve, |http| {
            let mut path = format!("referrers/{digest}");
            if let Some(kind) = kind {
                path.push_str(&format!("?artifactType={}", percent_encode(kind)));
            }
            let mut all: Vec<Descriptor> = Vec::new();
            let listed = pages(http, http.path(&path), media_type::OCI_INDEX, |_, bytes| {
                let index: Index = serde_json::from_slice(bytes).map_err(|error| unlike(http, "referrers", &error))?;
                all.extend(index.manifests);
                Ok(all.len())
            });
            match listed {
                Ok(()) => Ok(all),
                Err(Error::NotFound { .. }) => Ok(tagged(http, digest)?.manifests),
                Err(error) => Err(error),
            }
        })?;
        // Registries need not filter.
        found.retain(|referrer| kind.is_none_or(|kind| referrer.artifact_type == kind));
        Ok(found)
    }

    /// After `manifest` was pushed, which refers to `subject`, to a registry that does not keep referrers by itself:
    /// adds it to those under the tag.
    pub(super) fn refer(&self, http: &Http, subject: &Digest, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        let what = format!("manifest {}", descriptor.digest);
        let parsed: Manifest = serde_json::from_slice(bytes).map_err(|e| Error::malformed(what, e.to_string()))?;
        let mut entry = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size);
        entry.artifact_type = match parsed.artifact_type.is_empty() {
            true => parsed.config.media_type,
            false => parsed.artifact_type,
        };
        entry.annotations = parsed.annotations;
        let mut index = tagged(http, subject)?;
        if index.manifests.iter().any(|known| known.digest == entry.digest) {
            return Ok(());
        }
        index.manifests.push(entry);
        let bytes = serde_json::to_vec(&index).map_err(|e| Error::malformed("an index", e.to_string()))?;
        let content = || Ok((Box::new(bytes.as_slice()) as Box<dyn Read>, bytes.len() as u64));
        let headers = [(CONTENT_TYPE, media_type::OCI_INDEX)];
        let request = Request { content: Some(&content), ..Request::new(Method::PUT, &headers) };
        http.request(&http.path(&format!("manifests/{}", tag_of(subject))), &request, &Cancel::default()).map(drop)
    }
}

/// The tag under which registries without the interface have what refers to `digest`.
fn tag_of(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

fn tagged(http: &Http, digest: &Digest) -> Result<Index> {
    let tag = tag_of(digest);
    let none = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        manifests: Vec::new(),
        annotations: BTreeMap::new(),
    };
    let (bytes, content_type, _) = match manifest(http, &tag) {
        Err(Error::NotFound { .. }) => return Ok(none),
        found => found?,
    };
    let what = format!("manifest {tag} of {}", http.endpoint.repository);
    match Document::parse(&bytes, &content_type).map_err(|source| Error::Document { what: what.clone(), source })? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => Err(Error::malformed(what, "it is no index")),
    }
}

fn unlike(http: &Http, what: &str, error: &serde_json::Error) -> Error {
    Error::malformed(format!("registry {}: its list of {what}", http.endpoint.account), error.to_string())
}

/// The repositories of the registry, as far as it tells (its own extension, "Listing Repositories").
pub(super) fn catalog(http: &Http) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        repositories: Option<Vec<String>>,
    }
    let first = Target::Path(format!("{}/_catalog?n={PAGE}", http.endpoint.root));
    let mut all = Vec::new();
    pages(http, first, "application/json", |_, bytes| {
        let page: Page = serde_json::from_slice(bytes).map_err(|error| unlike(http, "repositories", &error))?;
        all.extend(page.repositories.unwrap_or_default());
        Ok(all.len())
    })?;
    Ok(all)
}

/// GETs all pages from `target` on; `take` says how many entries there are by now.
fn pages(
    http: &Http,
    mut target: Target,
    accept: &str,
    mut take: impl FnMut(&HeaderMap, &[u8]) -> Result<usize>,
) -> Result<()> {
    let what = format!("a list of {}", http.endpoint.repository);
    for _ in 0..PAGES_MAX {
        let response = http.get(&target, &[(ACCEPT, accept)], &Cancel::default())?;
        let headers = response.headers().clone();
        let bytes = read_bounded(&mut http.paced(response), MANIFEST_MAX, &what).map_err(|error| {
            if matches!(error, Error::TooLarge { .. }) { error } else { http.broken(&error.to_string()) }
        })?;
        if take(&headers, &bytes)? > ENTRIES_MAX {
            return Err(Error::TooLarge { what, limit: ENTRIES_MAX as u64 });
        }
        let next = headers.get(LINK).and_then(|link| next_of(link.to_str().ok()?));
        match next.map(|link| http.next(&target, &link)).transpose()? {
            // Whoever names the same page again has no more.
            Some(next) if next != target => target = next,
            _ => return Ok(()),
        }
    }
    Err(Error::TooLarge { what, limit: PAGES_MAX as u64 })
}

/// The target of `<…>; rel="next"` (RFC 8288).
pub(super) fn next_of(link: &str) -> Option<String> {
    link.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|parameter| {
            parameter.trim().strip_prefix("rel=").is_some_and(|rel| rel.trim_matches('"').eq_ignore_ascii_case("next"))
        });
        next.then(|| target.to_owned())
    })
}

impl Http {
    /// Where a list goes on, which is on this registry.
    fn next(&self, from: &Target, link: &str) -> Result<Target> {
        match self.follow(from, link)? {
            target @ Target::Path(_) => Ok(target),
            Target::Elsewhere(_) => Err(self.refused("its list goes on at another host")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_name_the_next_page() {
        assert_eq!(
            next_of("</v2/a/tags/list?n=2&last=b>; rel=\"next\"").as_deref(),
            Some("/v2/a/tags/list?n=2&last=b")
        );
        assert_eq!(next_of("</a>; rel=prev, </b>; title=x; rel=next").as_deref(), Some("/b"));
        for none in ["", "</a>", "</a>; rel=last", "/a; rel=next", "<a; rel=next"] {
            assert_eq!(next_of(none), None, "{none}");
        }
    }
}
