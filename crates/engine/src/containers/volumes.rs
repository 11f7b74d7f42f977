//! Directories an image declares as `VOLUME`. Until anonymous volumes exist they are part of the writable layer, and
//! one that the image does not bring itself is made there.

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use serde::Deserialize;
use sys::Context;

use crate::Result;

/// The part of [`Said`](super::Said) that names them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Declared {
    image_volumes: Vec<String>,
}

/// What the image has at a path.
enum Found {
    Directory(Stat),
    Nothing,
    /// A link or a file: whose business is the image's.
    Other,
}

/// Makes the declared directories that no layer has in `upper`, which nothing has used yet. `layers` are the roots of
/// the layers, topmost first.
pub(super) fn make(declared: &serde_json::Value, upper: &Path, layers: &[std::path::PathBuf]) -> Result<()> {
    let declared = Declared::deserialize(declared).unwrap_or_default();
    if declared.image_volumes.is_empty() {
        return Ok(());
    }
    let layers = layers.iter().map(|layer| open_root(layer)).collect::<sys::Result<Vec<_>>>()?;
    let upper = open_root(upper)?;
    for volume in &declared.image_volumes {
        let path = Path::new(volume);
        let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
        if path.is_absolute() && path.components().all(plain) && !path.starts_with("/proc") && !volume.contains('\0') {
            make_one(path, &upper, &layers)?;
        }
    }
    Ok(())
}

fn make_one(path: &Path, upper: &OwnedFd, layers: &[OwnedFd]) -> Result<()> {
    let mut steps = Vec::new();
    let mut prefix = std::path::PathBuf::new();
    let mut missing = false;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        prefix.push(name);
        let attributes = match find(layers, &prefix)? {
            Found::Directory(stat) => Some(stat),
            Found::Nothing => {
                missing = true;
                None
            }
            Found::Other => return Ok(()),
        };
        steps.push((name, attributes));
    }
    if !missing {
        return Ok(());
    }
    let mut dir = rustix::io::fcntl_dupfd_cloexec(upper, 0).at("fcntl", "F_DUPFD_CLOEXEC")?;
    for (name, attributes) in steps {
        let shown = name.to_string_lossy();
        let made = match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(sys::Error::new("mkdirat", shown, errno).into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        dir = sys::fs::open_beneath(&dir, Path::new(name), flags, Mode::empty())?;
        if made {
            // A directory in the upper layer shows its own attributes, so it takes over those of the one below.
            let (mode, uid, gid) =
                attributes.map_or((0o755, 0, 0), |stat| (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid));
            rustix::fs::fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).at("fchown", &shown)?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).at("fchmod", &shown)?;
        }
    }
    Ok(())
}

/// What the topmost layer that says anything says of `path`.
fn find(layers: &[OwnedFd], path: &Path) -> Result<Found> {
    for layer in layers {
        match sys::fs::open_beneath(layer, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(entry) => {
                let stat = rustix::fs::fstat(&entry).at("fstat", path.display())?;
                return Ok(match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Found::Directory(stat),
                    // A whiteout: removed from here on down.
                    FileType::CharacterDevice if stat.st_rdev == 0 => Found::Nothing,
                    _ => Found::Other,
                });
            }
            Err(error) if error.errno() == Errno::NOENT => {}
            Err(error) if matches!(error.errno(), Errno::LOOP | Errno::NOTDIR) => return Ok(Found::Other),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Found::Nothing)
}

fn open_root(path: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).at("open", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use serde_json::json;

    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn missing_directories_are_made_with_the_attributes_of_their_parents() {
        let scratch = Scratch::new("volumes");
        let [low, top, upper] = ["low", "top", "upper"].map(|name| scratch.path().join(name));
        for dir in [low.join("tmp"), low.join("srv/data"), top.join("srv"), upper.clone()] {
            std::fs::create_dir_all(dir).expect("made");
        }
        std::fs::set_permissions(low.join("tmp"), std::fs::Permissions::from_mode(0o1777)).expect("set");
        std::os::unix::fs::chown(low.join("tmp"), Some(5), Some(6)).expect("set");
        symlink("/etc", low.join("link")).expect("linked");
        let said = json!({"image_volumes": ["/tmp/new/deep", "/srv/data", "/link/x", "/../escape", "/", "relative", "/proc/x"]});
        make(&said, &upper, &[top, low]).expect("made");
        let tmp = std::fs::metadata(upper.join("tmp")).expect("there");
        assert_eq!((tmp.mode() & 0o7777, tmp.uid(), tmp.gid()), (0o1777, 5, 6));
        let deep = std::fs::metadata(upper.join("tmp/new/deep")).expect("there");
        assert_eq!((deep.mode() & 0o7777, deep.uid()), (0o755, 0));
        assert_eq!(std::fs::read_dir(&upper).expect("listed").count(), 1, "only what was missing");
        assert!(!scratch.path().join("escape").exists());
    }
}
