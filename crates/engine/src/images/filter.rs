//! Which images a filter lets through.

use image::ImageRecord;
use oci::Reference;

use super::{ImageFilter, ImageSummary};
use crate::containers::has_label;

pub(super) fn admits(filter: &ImageFilter, record: &ImageRecord, summary: &ImageSummary) -> bool {
    let dangling = record.reference.is_none();
    filter.dangling.is_none_or(|wanted| wanted == dangling)
        && filter.label.iter().all(|label| has_label(&summary.labels, label))
        && (filter.reference.is_empty()
            || record.reference.as_ref().is_some_and(|name| filter.reference.iter().any(|p| names(p, name))))
}

/// Whether a pattern names `reference`: its familiar name with or without tag, whole.
fn names(pattern: &str, reference: &Reference) -> bool {
    let familiar = reference.familiar();
    let name = reference.familiar_name();
    matches(pattern.as_bytes(), familiar.as_bytes()) || matches(pattern.as_bytes(), name.as_bytes())
}

/// Shell patterns as docker's filter has them: `*` and `?` stay within a component, everything else is itself.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // The place to go back to after the last star, and how much of the text that star took.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') if text[t] != b'/' => (p, t) = (p + 1, t + 1),
            Some(&byte) if byte == text[t] && byte != b'?' => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, taken)) if text[taken] != b'/' => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stay_within_a_component() {
        for (pattern, text, expected) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("*box", "busybox", true),
            ("*", "library/busybox", false),
            ("*/*", "library/busybox", true),
            ("*/busybox", "a/b/busybox", false),
            ("bus?box", "busybox", true),
            ("?", "/", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "x", false),
            ("***", "x", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn names_match_with_and_without_tag() {
        let reference: Reference = "busybox:1.36".parse().expect("a reference");
        for (pattern, expected) in [("busybox", true), ("busybox:1.*", true), ("busybox:2", false), ("*:1.36", true)] {
            assert_eq!(names(pattern, &reference), expected, "{pattern}");
        }
    }
}
