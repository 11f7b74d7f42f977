//! `images --tree`.

use engine::ImageTree;

use crate::format::{escape, units};
use crate::ui::terminal;

const IMAGE: &str = "IMAGE";
const UNTAGGED: &str = "<untagged>";
/// Width of the columns after the first, as docker has them; the first two are as wide as what is in them.
const ID_WIDTH: usize = 12;
const USAGE_WIDTH: usize = 10;
const CONTENT_WIDTH: usize = 12;
const EXTRA_WIDTH: usize = 5;
const LEGEND: &str = "Info ->  U In Use ";

/// The lines of the tree.
pub(crate) fn render(trees: &[ImageTree]) -> String {
    let colour = terminal::is_terminal(std::io::stdout());
    let bold = |text: &str| if colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
    let mut rows: Vec<Row> = Vec::new();
    let mut before_had_children = false;
    for (at, tree) in trees.iter().enumerate() {
        // A tree is set off from what is around it.
        if at > 0 && (before_had_children || !tree.platforms.is_empty()) {
            rows.push(Row::default());
        }
        before_had_children = !tree.platforms.is_empty();
        rows.extend(rows_of(tree));
    }
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(IMAGE.len());
    let total = width + ID_WIDTH + USAGE_WIDTH + CONTENT_WIDTH + EXTRA_WIDTH + 4 * 3;
    let mut text = format!("{LEGEND:>total$}\n\n");
    let heads = [bold(IMAGE), bold("ID"), bold("DISK USAGE"), bold("CONTENT SIZE"), bold("EXTRA")];
    let [image, id, usage, content, extra] = heads;
    let pad = |length: usize, width: usize| " ".repeat(width.saturating_sub(length));
    text.push_str(&format!(
        "{image}{}   {id}{}   {usage}   {content}   {extra}\n",
        pad(IMAGE.len(), width),
        pad("ID".len(), ID_WIDTH)
    ));
    for row in rows {
        let line = format!(
            "{}{}   {:<ID_WIDTH$}   {:>USAGE_WIDTH$}   {:>CONTENT_WIDTH$}   {:^EXTRA_WIDTH$}",
            row.name,
            pad(row.name.chars().count(), width),
            row.id,
            row.usage,
            row.content,
            if row.in_use { "U" } else { "" }
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[derive(Default)]
struct Row {
    name: String,
    id: String,
    usage: String,
    content: String,
    in_use: bool,
}

fn rows_of(tree: &ImageTree) -> Vec<Row> {
    let size = |content: u64, unpacked: u64| units::decimal(content.saturating_add(unpacked));
    let names = if tree.names.is_empty() { vec![UNTAGGED.to_owned()] } else { tree.names.clone() };
    let mut rows = Vec::new();
    for name in &names {
        rows.push(Row { name: escape::line(name).into_owned(), ..Row::default() });
    }
    if let Some(last) = rows.last_mut() {
        last.id = tree.id.short().to_owned();
        last.usage = size(tree.content, tree.unpacked);
        last.content = units::decimal(tree.content);
        last.in_use = tree.in_use;
    }
    for (at, child) in tree.platforms.iter().enumerate() {
        let branch = if at + 1 == tree.platforms.len() { "└─" } else { "├─" };
        rows.push(Row {
            name: format!("{branch} {}", escape::line(&child.platform)),
            id: child.id.short().to_owned(),
            usage: size(child.content, child.unpacked),
            content: units::decimal(child.content),
            in_use: child.in_use,
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use engine::images::PlatformImage;
    use oci::Digest;

    use super::*;

    #[test]
    fn trees_read_as_dockers() {
        let id = Digest::sha256_of(b"x");
        let plain = ImageTree {
            id: id.clone(),
            names: vec!["box:1".into(), "box:2".into()],
            created: String::new(),
            content: 1000,
            unpacked: 2000,
            in_use: true,
            platforms: Vec::new(),
        };
        let part = |platform: &str, content, unpacked| PlatformImage {
            platform: platform.into(),
            id: id.clone(),
            content,
            unpacked,
            in_use: false,
        };
        let many = ImageTree {
            names: Vec::new(),
            in_use: false,
            platforms: vec![part("linux/amd64", 1000, 2000), part("linux/arm64", 0, 0)],
            ..plain.clone()
        };
        let text = render(&[plain, many]);
        let short = id.short();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "IMAGE            ID             DISK USAGE   CONTENT SIZE   EXTRA");
        assert_eq!(lines[3], "box:1");
        assert_eq!(lines[4], format!("box:2            {short}          3kB            1kB     U"));
        assert_eq!(lines[5], "");
        assert_eq!(lines[6], format!("<untagged>       {short}          3kB            1kB"));
        assert_eq!(lines[7], format!("├─ linux/amd64   {short}          3kB            1kB"));
        assert_eq!(lines[8], format!("└─ linux/arm64   {short}           0B             0B"));
    }
}
