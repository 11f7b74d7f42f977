use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;
use crate::archive::testing::{Scratch, Tar};
use crate::{Limits, xattr};

fn id(name: &str) -> Digest {
    Digest::sha256_of(name.as_bytes())
}

fn staged(store: &LayerStore, tar: Tar) -> Staging {
    let mut staging = store.stage().unwrap();
    staging.apply(&mut &tar.end()[..], &Limits::default()).unwrap();
    staging
}

fn count(path: PathBuf) -> usize {
    fs::read_dir(path).unwrap().count()
}

#[test]
fn a_layer_is_there_when_it_is_complete() {
    let scratch = Scratch::new("commit");
    let store = LayerStore::open(scratch.path()).unwrap();
    let one = id("one");
    let mut staging = store.stage().unwrap();
    let stats = staging.apply(&mut &Tar::new().file("d/f", "12345").end()[..], &Limits::default()).unwrap();
    assert_eq!((stats.bytes, stats.inodes, stats.implicit_dirs), (5, 3, 2));
    assert!(!store.contains(&one).unwrap());
    assert!(matches!(store.usage(&one), Err(Error::MissingLayer(_))));
    staging.commit(&one, &[]).unwrap();
    assert!(store.contains(&one).unwrap());
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&one));
    assert_eq!(store.usage(&one).unwrap(), Usage { bytes: 5, inodes: 3 });
    let path = store.layers_dir().join(one.hex());
    assert_eq!(fs::read(path.join("diff/d/f")).unwrap(), b"12345");
    assert_eq!(fs::metadata(path.join("diff")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(store.layers_dir()).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(count(store.layers_dir().join(".staging")), 0);

    fs::write(path.join("meta"), "{").unwrap();
    assert!(matches!(store.usage(&one), Err(Error::Record { .. })));
    assert!(store.contains(&one).unwrap());
    assert!(store.remove(&one).unwrap());
    assert!(!store.remove(&one).unwrap() && !store.contains(&one).unwrap());
    assert_eq!(store.empty_trash().unwrap(), 1);
    assert_eq!((count(scratch.path().join("trash")), count(scratch.path().join("layers"))), (0, 1));
}

#[test]
fn what_is_dropped_or_failed_goes_to_the_trash() {
    let scratch = Scratch::new("drop");
    let store = LayerStore::open(scratch.path()).unwrap();
    drop(staged(&store, Tar::new().file("f", "x")));
    let mut failed = store.stage().unwrap();
    let truncated = Tar::new().file("f", "x").open_end();
    assert!(matches!(failed.apply(&mut &truncated[..], &Limits::default()), Err(Error::Truncated)));
    assert!(matches!(failed.commit(&id("failed"), &[]), Err(Error::Unfinished)));
    assert!(matches!(store.stage().unwrap().commit(&id("empty"), &[]), Err(Error::Unfinished)));
    let error = staged(&store, Tar::new()).commit(&id("child"), &[id("absent")]).unwrap_err();
    assert!(matches!(error, Error::MissingLayer(missing) if missing == id("absent")));
    assert_eq!((count(scratch.path().join("layers/.staging")), count(scratch.path().join("trash"))), (0, 4));
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(store.empty_trash().unwrap(), 4);
}

#[test]
fn losing_a_race_is_success() {
    let scratch = Scratch::new("race");
    let store = LayerStore::open(scratch.path()).unwrap();
    let tar = || Tar::new().file("f", "same");
    let (first, second) = (staged(&store, tar()), staged(&store, tar()));
    second.commit(&id("layer"), &[]).unwrap();
    let inode = fs::metadata(store.layers_dir().join(id("layer").hex())).unwrap().ino();
    first.commit(&id("layer"), &[]).unwrap();
    // The loser may find out only at the rename.
    let late = staged(&store, tar());
    late.settle(&[]).unwrap();
    late.publish(&id("layer")).unwrap();
    assert_eq!(fs::metadata(store.layers_dir().join(id("layer").hex())).unwrap().ino(), inode);
    assert_eq!(count(scratch.path().join("layers/.staging")), 0);

    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| staged(&store, tar()).commit(&id("parallel"), &[]).unwrap());
        }
    });
    assert_eq!(fs::read(store.layers_dir().join(id("parallel").hex()).join("diff/f")).unwrap(), b"same");
    assert_eq!(count(scratch.path().join("layers/.staging")), 0);
}

#[test]
fn a_sweep_takes_what_the_dead_left_and_nothing_else() {
    let scratch = Scratch::new("sweep");
    let store = LayerStore::open(scratch.path()).unwrap();
    let alive = staged(&store, Tar::new().file("f", "x"));
    let dead = scratch.path().join("layers/.staging/dead");
    fs::create_dir_all(dead.join("diff/some")).unwrap();
    fs::write(scratch.path().join("layers/.staging/file"), "").unwrap();
    let other = LayerStore::open(scratch.path()).unwrap();
    assert_eq!(other.sweep().unwrap(), 2);
    assert_eq!(other.sweep().unwrap(), 0);
    assert!(!dead.exists());
    alive.commit(&id("alive"), &[]).unwrap();
    assert!(store.contains(&id("alive")).unwrap());
    // Sweeping while others begin takes nothing from them.
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| (0..200).try_for_each(|_| other.sweep().map(drop)));
        for n in 0..40 {
            staged(&store, Tar::new().file("f", "x")).publish_for_test(&id(&format!("busy{n}")));
        }
        sweeper.join().unwrap().unwrap();
    });
    assert_eq!(store.list().unwrap().len(), 41);
}

impl Staging {
    /// A commit without its synchronisation.
    fn publish_for_test(self, chain: &Digest) {
        drop(self.settle(&[]).unwrap());
        self.publish(chain).unwrap();
    }
}

#[test]
fn implicit_directories_inherit_from_the_chain() {
    let scratch = Scratch::new("inherit");
    let store = LayerStore::open(scratch.path()).unwrap();
    let base = Tar::new()
        .dir_of("./", 0o750, 3, 4)
        .dir_of("etc", 0o700, 1, 2)
        .pax(&[("SCHILY.xattr.user.kept", b"yes")])
        .dir_of("etc/deep", 0o1777, 5, 6)
        .dir_of("gone", 0o700, 1, 1)
        .dir_of("opaque", 0o711, 1, 1)
        .dir_of("opaque/sub", 0o700, 9, 9)
        .dir_of("link", 0o700, 9, 9);
    let middle = Tar::new().file(".wh.gone", "").file("opaque/.wh..wh..opq", "").symlink("link", "etc");
    let top = Tar::new()
        .file("etc/deep/f", "x")
        .file("gone/f", "x")
        .file("opaque/sub/f", "x")
        .file("link/f", "x")
        .file("new/f", "x");
    let chain = vec![
        (id("base"), Some(staged(&store, base))),
        (id("middle"), Some(staged(&store, middle))),
        (id("top"), Some(staged(&store, top))),
    ];
    store.commit_all(chain).unwrap();
    let meta = |layer: &str, path: &str| {
        let meta = fs::symlink_metadata(store.layers_dir().join(id(layer).hex()).join("diff").join(path)).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    assert_eq!(meta("top", ""), (0o750, 3, 4));
    assert_eq!(meta("middle", ""), (0o750, 3, 4));
    assert_eq!(meta("middle", "opaque"), (0o711, 1, 1));
    assert_eq!(meta("top", "opaque"), (0o711, 1, 1));
    assert_eq!(meta("top", "etc"), (0o700, 1, 2));
    assert_eq!(meta("top", "etc/deep"), (0o1777, 5, 6));
    for hidden in ["gone", "opaque/sub", "link", "new"] {
        assert_eq!(meta("top", hidden), (0o755, 0, 0), "{hidden}");
    }
    let deep = fs::File::open(store.layers_dir().join(id("top").hex()).join("diff/etc/deep")).unwrap();
    let mut value = [0; 8];
    assert_eq!(rustix::fs::fgetxattr(&deep, "user.kept", &mut value[..]), Ok(3));
    assert_eq!(deep.metadata().unwrap().mtime(), 1_000_000_000);
    // Each layer again, alone, on top of what is there: same result as all at once.
    staged(&store, Tar::new().file("etc/g", "x")).commit(&id("more"), &[id("base"), id("middle"), id("top")]).unwrap();
    assert_eq!(meta("more", "etc"), (0o700, 1, 2));
}

#[test]
fn an_opaque_root_hides_every_name_below() {
    let scratch = Scratch::new("opaque-root");
    let store = LayerStore::open(scratch.path()).unwrap();
    staged(&store, Tar::new().dir("./").file("file", "x").dir("dir").file("dir/f", "x"))
        .commit(&id("base"), &[])
        .unwrap();
    let top = Tar::new().dir("./").file(".wh..wh..opq", "").dir("dir").file("kept", "y");
    staged(&store, top).commit(&id("top"), &[id("base")]).unwrap();
    let diff = store.layers_dir().join(id("top").hex()).join("diff");
    let file = fs::symlink_metadata(diff.join("file")).unwrap();
    assert!(file.file_type().is_char_device() && file.rdev() == 0);
    assert!(xattr::is_opaque(fs::File::open(diff.join("dir")).unwrap()).unwrap());
    assert_eq!(fs::read(diff.join("kept")).unwrap(), b"y");
    assert_eq!(fs::metadata(&diff).unwrap().mtime(), 1_000_000_000);
    assert_eq!(store.usage(&id("top")).unwrap(), Usage { bytes: 1, inodes: 4 });
}

#[test]
fn layers_that_are_there_are_not_committed_again() {
    let scratch = Scratch::new("present");
    let store = LayerStore::open(scratch.path()).unwrap();
    staged(&store, Tar::new().dir_of("d", 0o700, 1, 1)).commit(&id("base"), &[]).unwrap();
    let chain = vec![
        (id("base"), Some(staged(&store, Tar::new().file("other", "x")))),
        (id("next"), Some(staged(&store, Tar::new().file("d/f", "x")))),
    ];
    store.commit_all(chain).unwrap();
    assert!(!store.layers_dir().join(id("base").hex()).join("diff/other").exists());
    let next = fs::metadata(store.layers_dir().join(id("next").hex()).join("diff/d")).unwrap();
    assert_eq!(next.permissions().mode() & 0o7777, 0o700);
    store.commit_all(vec![(id("base"), None), (id("next"), None)]).unwrap();
    assert!(matches!(store.commit_all(vec![(id("nothing"), None)]), Err(Error::MissingLayer(_))));
    assert_eq!(count(scratch.path().join("layers/.staging")), 0);
}

#[test]
fn an_overlay_shows_what_the_chain_means() {
    let scratch = Scratch::new("overlay");
    let store = LayerStore::open(scratch.path()).unwrap();
    staged(&store, Tar::new().dir("./").file("old", "1").dir("d").file("d/old", "2").file("both", "3"))
        .commit(&id("base"), &[])
        .unwrap();
    let top = Tar::new().file(".wh.old", "").file("d/.wh..wh..opq", "").file("d/new", "4").file("both", "5");
    staged(&store, top).commit(&id("top"), &[id("base")]).unwrap();
    let container = scratch.path().join("c");
    fs::create_dir(&container).unwrap();
    let overlay = store.create_upper(&container, &[id("base"), id("top")]).unwrap();
    let Some(mount) = mount_overlay(&overlay) else { return };
    let read = |path: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&mount, path, flags, Mode::empty())
            .map(|file| std::io::read_to_string(fs::File::from(file)).unwrap())
    };
    assert_eq!(read("old"), Err(Errno::NOENT));
    assert_eq!(read("d/old"), Err(Errno::NOENT));
    assert_eq!((read("d/new"), read("both")), (Ok("4".to_owned()), Ok("5".to_owned())));
}

/// A detached mount of the overlay; nothing when this process may not mount.
fn mount_overlay(overlay: &crate::snapshot::Overlay) -> Option<OwnedFd> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    };
    let fs = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::PERM | Errno::NODEV | Errno::NOSYS) => return None,
        fs => fs.unwrap(),
    };
    for lower in &overlay.lowers {
        fsconfig_set_string(&fs, "lowerdir+", overlay.layers_dir.join(lower)).unwrap();
    }
    fsconfig_set_string(&fs, "upperdir", &overlay.upper).unwrap();
    fsconfig_set_string(&fs, "workdir", &overlay.work).unwrap();
    fsconfig_create(&fs).unwrap();
    Some(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap())
}
