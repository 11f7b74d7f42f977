//! Rules about single files: where `unsafe` may stand, what a file must say of itself, what it must not hold.

use super::Breach;
use super::lexer::{Line, split};

/// A longer file has more than one subject.
const LONGEST: usize = 700;

/// Names that say nothing about what is inside.
const DRAWERS: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "misc"];

/// Macros that stand for code to be written or taken out again.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// Marks of work left undone.
const NOTES: [&str; 3] = ["TODO", "FIXME", "XXX"];

/// Checks one file: `place` is its path below the workspace's root.
pub(super) fn check(place: &str, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let lines = split(text);
    let count = text.lines().count();
    if count > LONGEST {
        breaches.push(Breach::new(place, format!("{count} lines: split it by subject, {LONGEST} is the most")));
    }
    // Unit tests in a file of their own belong to the module that is told apart in its own head.
    let tests = place.ends_with("tests.rs");
    if !tests && !text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!")) {
        breaches.push(Breach::new(place, "must begin by saying what it is for: //!"));
    }
    if let Some(drawer) = place.split(['/', '.']).find(|part| DRAWERS.contains(part)) {
        breaches.push(Breach::new(place, format!("\"{drawer}\" says nothing: name the file after its subject")));
    }
    for (n, line) in lines.iter().enumerate() {
        let mut breach = |rule: &str| breaches.push(Breach::new(format!("{place}:{}", n + 1), rule));
        let code = line.code.as_str();
        if has_word(code, "unsafe") {
            if !place.starts_with("crates/sys/") {
                breach("unsafe stands in crates/sys only");
            } else if opens_unsafe(code) && !explained(&lines, n) {
                breach("unsafe needs a line // SAFETY: above it");
            }
        }
        let attribute: String = code.chars().filter(|letter| !letter.is_whitespace()).collect();
        if attribute.starts_with("#![allow(") {
            breach("no blanket allow: #[expect(.., reason = ..)] on the smallest item");
        }
        if attribute.starts_with("#[allow(") && next_code(&lines, n).is_some_and(is_module) {
            breach("no allow for a whole module: #[expect(.., reason = ..)] on the smallest item");
        }
        if attribute.starts_with("#[ignore") {
            breach("a test that does not run proves nothing: mend it or take it out");
        }
        if UNFINISHED.iter().any(|word| code.match_indices(word).any(|(at, _)| starts_word(code, at))) {
            breach("unfinished code does not land");
        }
        if NOTES.iter().any(|word| has_word(&line.comment, word)) {
            breach("work left to do is an issue, not a comment");
        }
    }
    breaches
}

fn is_letter(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn starts_word(text: &str, at: usize) -> bool {
    !text[..at].chars().next_back().is_some_and(is_letter)
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word)
        .any(|(at, _)| starts_word(text, at) && !text[at + word.len()..].chars().next().is_some_and(is_letter))
}

/// Whether a line opens an unsafe block or implementation; a declaration of an unsafe function asserts nothing.
fn opens_unsafe(code: &str) -> bool {
    let mut after = code.match_indices("unsafe").map(|(at, word)| code[at + word.len()..].trim_start());
    after.any(|rest| rest.starts_with('{') || rest.starts_with("impl"))
}

/// Whether the comment on or right above a line has a SAFETY text. Attributes and the statement that the block is part
/// of may stand between.
fn explained(lines: &[Line], at: usize) -> bool {
    if lines[at].comment.contains("SAFETY:") {
        return true;
    }
    for line in lines[..at].iter().rev() {
        if line.comment.contains("SAFETY:") {
            return true;
        }
        let code = line.code.trim();
        let between = code.is_empty() && !line.comment.is_empty()
            || code.starts_with("#[")
            || !code.is_empty() && !ends_statement(code);
        if !between {
            return false;
        }
    }
    false
}

fn ends_statement(code: &str) -> bool {
    code.ends_with([';', '{', '}', ','])
}

/// The code of the next line that has any and is no attribute.
fn next_code(lines: &[Line], at: usize) -> Option<&str> {
    lines[at + 1..].iter().map(|line| line.code.trim()).find(|code| !code.is_empty() && !code.starts_with("#["))
}

fn is_module(code: &str) -> bool {
    code.split_whitespace().find(|word| !word.starts_with("pub")).is_some_and(|word| word == "mod")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "//! What it is for.\n";

    fn rules(place: &str, body: &str) -> Vec<String> {
        check(place, &format!("{HEAD}{body}")).into_iter().map(|breach| breach.rule).collect()
    }

    #[track_caller]
    fn found(place: &str, body: &str, part: &str) {
        let rules = rules(place, body);
        assert!(rules.len() == 1 && rules[0].contains(part), "{body:?}: {rules:?}");
    }

    #[track_caller]
    fn clean(place: &str, body: &str) {
        assert_eq!(rules(place, body), Vec::<String>::new(), "{body:?}");
    }

    #[test]
    fn unsafe_stands_in_sys_with_its_reason() {
        let engine = "crates/engine/src/a.rs";
        let sys = "crates/sys/src/a.rs";
        found(engine, "let x = unsafe { y() };", "crates/sys only");
        found(engine, "unsafe fn f() {}", "crates/sys only");
        clean(engine, "// unsafe in words\nlet unsafe_code = \"unsafe\";");
        found(sys, "let x = unsafe { y() };", "SAFETY");
        found(sys, "// SAFETY: of another one.\nlet z = 1;\nlet x = unsafe { y() };", "SAFETY");
        found(sys, "unsafe impl Send for X {}", "SAFETY");
        clean(sys, "// SAFETY: y takes nothing.\nlet x = unsafe { y() };");
        clean(
            sys,
            "// SAFETY: y takes nothing,\n// and gives nothing.\n#[expect(x, reason = \"y\")]\nlet x = unsafe { y() };",
        );
        clean(sys, "// SAFETY: y takes nothing.\nlet x: Long =\n    unsafe { y() };");
        clean(sys, "pub unsafe fn f() {}");
    }

    #[test]
    fn no_blanket_allow() {
        found("a.rs", "#![allow(dead_code, reason = \"x\")]", "blanket");
        found("a.rs", "#[allow(dead_code, reason = \"x\")]\npub(crate) mod x;", "whole module");
        clean("a.rs", "#[expect(dead_code, reason = \"x\")]\nfn f() {}");
        clean("a.rs", "let text = \"#![allow(x)]\";");
    }

    #[test]
    fn no_unfinished_code_and_no_notes() {
        found("a.rs", "fn f() { todo!() }", "unfinished");
        found("a.rs", "fn f() { unimplemented!(\"x\") }", "unfinished");
        found("a.rs", "fn f() { dbg!(1); }", "unfinished");
        clean("a.rs", "my_todo!(); let x = \"todo!()\";");
        for note in NOTES {
            found("a.rs", &format!("// {note}: later"), "issue");
        }
        clean("a.rs", "// a TODOS list\nlet x = \"FIXME\";");
        found("a.rs", "#[ignore]\nfn f() {}", "does not run");
    }

    #[test]
    fn files_are_short_named_and_introduced() {
        found("a.rs", &"x();\n".repeat(LONGEST + 1), "split it");
        clean("a.rs", &"x();\n".repeat(LONGEST - 1));
        for drawer in DRAWERS {
            found(&format!("crates/x/src/{drawer}.rs"), "", "says nothing");
            found(&format!("crates/x/src/{drawer}/mod.rs"), "", "says nothing");
        }
        clean("crates/x/src/commons.rs", "");
        assert!(check("a.rs", "use x;\n")[0].rule.contains("must begin"));
        assert_eq!(check("crates/x/src/store_tests.rs", "use x;\n"), Vec::new());
        assert!(check("a.rs", "").iter().any(|breach| breach.rule.contains("must begin")));
    }

    #[test]
    fn breaches_are_named_by_line() {
        assert_eq!(check("a.rs", "//! x\n\nfn f() { todo!() }\n")[0].place, "a.rs:3");
    }
}
