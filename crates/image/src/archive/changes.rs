//! `import --change`: Dockerfile instructions that alter an image's configuration.

use oci::image::{ContainerConfig, Empty};

use crate::{Error, Result};

const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Applies one instruction, such as `CMD ["sh"]`.
pub(super) fn apply(config: &mut ContainerConfig, change: &str) -> Result<()> {
    let invalid = |reason: &str| Error::malformed(format!("change {change:?}"), reason);
    let change_text = change.trim();
    let (instruction, rest) = change_text.split_once(char::is_whitespace).unwrap_or((change_text, ""));
    let rest = rest.trim();
    let instruction = instruction.to_ascii_uppercase();
    if rest.is_empty() && !matches!(instruction.as_str(), "CMD" | "ENTRYPOINT") {
        return Err(invalid("it needs an argument"));
    }
    match instruction.as_str() {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
        "ENV" => {
            for (name, value) in pairs(rest).ok_or_else(|| invalid("write NAME=value"))? {
                let prefix = format!("{name}=");
                let entry = format!("{prefix}{value}");
                match config.env.iter_mut().find(|old| old.starts_with(&prefix)) {
                    Some(old) => *old = entry,
                    None => config.env.push(entry),
                }
            }
        }
        "EXPOSE" => {
            for port in split_words(rest).ok_or_else(|| invalid("a quote is not closed"))? {
                config.exposed_ports.insert(exposed(&port).ok_or_else(|| invalid("write PORT or PORT/tcp"))?, Empty {});
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).ok_or_else(|| invalid("write NAME=value"))?),
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(invalid("it cannot be a trigger"));
            }
            config.on_build.push(rest.to_owned());
        }
        "STOPSIGNAL" => config.stop_signal = rest.to_owned(),
        "USER" => config.user = rest.to_owned(),
        "VOLUME" => {
            let paths = match json(rest) {
                Some(paths) => paths,
                None => split_words(rest).ok_or_else(|| invalid("a quote is not closed"))?,
            };
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err(invalid("a volume's path is empty"));
            }
            config.volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
        }
        "WORKDIR" => config.working_dir = workdir(&config.working_dir, rest),
        _ => return Err(invalid("not an instruction that changes an image's configuration")),
    }
    Ok(())
}

fn json(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// JSON form as it is; anything else is for the shell.
fn command(text: &str) -> Vec<String> {
    match json(text) {
        Some(words) => words,
        None if text.is_empty() => Vec::new(),
        None => SHELL.iter().map(|word| (*word).to_owned()).chain([text.to_owned()]).collect(),
    }
}

/// `a=b "c d"="e f"`, or the old form `NAME the rest`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let first = text.split_whitespace().next()?;
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    split_words(text)?
        .into_iter()
        .map(|word| {
            let (name, value) = word.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Words separated by blanks, with quotes and backslashes as a shell has them; `None` when a quote stays open.
fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push(chars.next()?),
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn exposed(port: &str) -> Option<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let number_ok = number.split('-').count() <= 2 && number.split('-').all(|n| n.parse::<u16>().is_ok_and(|n| n > 0));
    let protocol = protocol.to_ascii_lowercase();
    let protocol_ok = matches!(protocol.as_str(), "tcp" | "udp" | "sctp");
    (number_ok && protocol_ok).then(|| format!("{number}/{protocol}"))
}

fn workdir(current: &str, new: &str) -> String {
    let joined = if new.starts_with('/') { new.to_owned() } else { format!("{current}/{new}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> ContainerConfig {
        let mut config = ContainerConfig::default();
        for change in changes {
            apply(&mut config, change).expect(change);
        }
        config
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = changed(&[
            "CMD [\"sh\", \"-l\"]",
            "entrypoint exec app",
            "ENV A=1 B=\"two words\" C='3'",
            "ENV A=2",
            "ENV OLD form here",
            "EXPOSE 80 53/udp 8000-8010",
            "LABEL a=b \"c d\"=e",
            "ONBUILD RUN x",
            "STOPSIGNAL SIGINT",
            "USER 1000:1000",
            "VOLUME /data /more",
            "VOLUME [\"/with space\"]",
            "WORKDIR /a/b",
            "WORKDIR ../c",
        ]);
        let words = |list: &[&str]| Some(list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(config.cmd, words(&["sh", "-l"]));
        assert_eq!(config.entrypoint, words(&["/bin/sh", "-c", "exec app"]));
        assert_eq!(config.env, ["A=2", "B=two words", "C=3", "OLD=form here"]);
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp", "8000-8010/tcp"]);
        assert_eq!((config.labels["a"].as_str(), config.labels["c d"].as_str()), ("b", "e"));
        assert_eq!(config.on_build, ["RUN x"]);
        assert_eq!((config.stop_signal.as_str(), config.user.as_str()), ("SIGINT", "1000:1000"));
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data", "/more", "/with space"]);
        assert_eq!(config.working_dir, "/a/c");
    }

    #[test]
    fn other_instructions_are_refused() {
        for bad in [
            "",
            "RUN x",
            "FROM a",
            "ENV",
            "ENV A",
            "ENV =x",
            "EXPOSE x",
            "EXPOSE 0",
            "EXPOSE 70000",
            "EXPOSE 80/icmp",
            "LABEL 'a=b",
            "ONBUILD FROM x",
            "ONBUILD onbuild RUN x",
            "VOLUME [\"\"]",
            "USER",
        ] {
            assert!(apply(&mut ContainerConfig::default(), bad).is_err(), "{bad:?}");
        }
    }
}
