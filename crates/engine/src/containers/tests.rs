//! Creation, removal and repair on temporary roots; nothing is started here.

use container::record::{State, Status};
use image::Quiet;
use sys::fs::Durability;

use super::*;
use crate::images::tests::import;
use crate::spec::{ContainerSpec, NetworkMode, PullPolicy, Source};
use crate::testing::Scratch;
use crate::{ErrorKind, ImageFilter, Removed};

fn spec(name: Option<&str>) -> ContainerSpec {
    ContainerSpec {
        name: name.map(str::to_owned),
        source: Source::Image("box".into()),
        pull: PullPolicy::Never,
        network: NetworkMode::None,
        ..ContainerSpec::default()
    }
}

fn with_image(name: &str) -> (Scratch, Engine) {
    let scratch = Scratch::new(name);
    let engine = scratch.engine();
    import(&engine, Some("box"), "one");
    (scratch, engine)
}

fn entries(path: &Path) -> usize {
    std::fs::read_dir(path).map_or(0, Iterator::count)
}

/// Nothing of any container is left.
fn assert_clean(engine: &Engine) {
    assert_eq!(entries(&engine.paths.containers()), 0);
    assert_eq!(entries(&engine.paths.names()), 0);
    assert_eq!(entries(&engine.paths.run_containers()), 0);
    let leases = storage::ranges::Ranges::open(&engine.paths.run).expect("opened").list().expect("listed");
    assert!(leases.is_empty());
}

#[test]
fn a_container_is_created_found_listed_and_removed() {
    let (_scratch, engine) = with_image("create");
    let made = engine.create(&spec(Some("web")), &Quiet).expect("created");
    let other = engine.create(&spec(None), &Quiet).expect("created");
    assert_eq!(made.warnings, Vec::<String>::new());
    assert!(other.name.as_str().contains('_'));
    for said in ["web", "/web", made.id.as_str(), made.id.short()] {
        assert_eq!(engine.lookup(said).expect("found"), made.id, "{said}");
    }
    for said in ["nothing", "", "../web", "zz", &"f".repeat(64)] {
        assert_eq!(engine.lookup(said).expect_err("unknown").kind(), ErrorKind::NoSuchContainer, "{said:?}");
    }
    let error = engine.create(&spec(Some("web")), &Quiet).expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("\"/web\" is already in use"), "{error}");
    assert_eq!(entries(&engine.paths.containers()), 2, "a refused create leaves nothing");

    let all = ContainerFilter { all: true, ..ContainerFilter::default() };
    let listed = engine.list(&all).expect("listed");
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|line| line.state == State::Created && line.image == "box" && line.command == ["/true"]));
    assert!(engine.list(&ContainerFilter::default()).expect("listed").is_empty());
    let by_image = ContainerFilter { all: true, ancestor: vec!["box:latest".into()], ..ContainerFilter::default() };
    assert_eq!(engine.list(&by_image).expect("listed").len(), 2);

    let details = engine.inspect(&made.id, true).expect("inspected");
    assert_eq!((details.name.as_str(), details.state, details.said.network.as_str()), ("web", State::Created, "none"));
    assert_eq!(details.posture.namespaces.len(), 8);
    assert_eq!(details.posture.seccomp, "default");
    assert!(details.size.expect("measured").total > 0);

    let error = engine.remove_image("box", false, false).expect_err("used");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    engine.remove(&made.id, RemoveOptions::default()).expect("removed");
    engine.remove(&other.id, RemoveOptions::default()).expect("removed");
    assert_clean(&engine);
    assert_eq!(engine.lookup("web").expect_err("gone").kind(), ErrorKind::NoSuchContainer);
    assert!(
        engine.remove_image("box", false, false).expect("removed").contains(&Removed::Untagged("box:latest".into()))
    );
    assert!(engine.images(&ImageFilter::default()).expect("listed").is_empty());
}

#[test]
fn what_is_wrong_is_refused_and_leaves_nothing() {
    let (_scratch, engine) = with_image("refused");
    let refused = |change: fn(&mut ContainerSpec), kind| {
        let mut spec = spec(None);
        change(&mut spec);
        let error = engine.create(&spec, &Quiet).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
    };
    refused(|spec| spec.name = Some("a b".into()), ErrorKind::Invalid);
    refused(|spec| spec.source = Source::Image("absent".into()), ErrorKind::NoSuchImage);
    refused(|spec| spec.source = Source::Image("Not/A/Name".into()), ErrorKind::NoSuchImage);
    refused(|spec| spec.source = Source::Rootfs("/no/such/dir".into()), ErrorKind::Invalid);
    refused(|spec| spec.resources.memory = Some(1), ErrorKind::Invalid);
    refused(|spec| spec.network = NetworkMode::Named("web".into()), ErrorKind::Unsupported);
    refused(|spec| spec.dns = vec!["1.1.1.1\nnameserver 6.6.6.6".into()], ErrorKind::Invalid);
    refused(|spec| spec.extra_hosts = vec![("a b".into(), "10.0.0.1".into())], ErrorKind::Invalid);
    assert_clean(&engine);
}

#[test]
fn a_killed_create_is_taken_back() {
    let (_scratch, engine) = with_image("killed-create");
    let id = ContainerId::from_random(&[9; 32]);
    // Killed after the name, and killed while the directory was being filled.
    engine
        .names()
        .expect("opened")
        .reserve(&"web".parse().expect("a name"), &id, Durability::Volatile)
        .expect("reserved");
    std::fs::create_dir_all(engine.paths.containers().join(format!(".{id}.12345")).join("upper/a/b")).expect("made");
    let lease = engine.lease().expect("leased");
    assert!(engine.reconcile().is_empty(), "it may still be under way");
    drop(lease);
    assert_eq!(engine.reconcile().len(), 2);
    assert!(engine.reconcile().is_empty());
    assert_clean(&engine);
    // And without any repair in between, the name can be had again.
    engine
        .names()
        .expect("opened")
        .reserve(&"web".parse().expect("a name"), &id, Durability::Volatile)
        .expect("reserved");
    let made = engine.create(&spec(Some("web")), &Quiet).expect("created");
    engine.remove(&made.id, RemoveOptions::default()).expect("removed");
    assert_clean(&engine);
}

/// A container as if it had run: recorded in `state`, with a lease and a runtime directory, and nobody at work on it.
fn ran(engine: &Engine, auto_remove: bool, state: State) -> ContainerId {
    engine.ensure_run().expect("made");
    let spec = ContainerSpec { auto_remove, ..spec(None) };
    let id = engine.create(&spec, &Quiet).expect("created").id;
    let dir = engine.container_dir(&id).expect("opened");
    dir.write_status(&Status { exit_code: 7, ..Status::new(state) }, Durability::Volatile).expect("written");
    make_dirs(&engine.paths.run_container(&id)).expect("made");
    storage::ranges::Ranges::open(&engine.paths.run).expect("opened").acquire(id.as_str()).expect("leased");
    id
}

#[test]
fn a_lost_container_is_recorded_with_255_and_can_go() {
    let (_scratch, engine) = with_image("lost");
    let id = ran(&engine, false, State::Running);
    assert_eq!(engine.inspect(&id, false).expect("inspected").state, State::Exited, "readers see it before the repair");
    let repairs = engine.reconcile();
    assert!(matches!(&repairs[..], [Repair::MonitorDied(lost)] if *lost == id), "{repairs:?}");
    assert!(engine.reconcile().is_empty());
    let details = engine.inspect(&id, false).expect("inspected");
    assert_eq!((details.state, details.exit_code), (State::Exited, 255));
    assert_eq!(engine.wait(&id).expect("over"), 255);
    engine.stop(&id, None, None).expect("stopped already");
    assert_eq!(engine.kill(&id, 9).expect_err("not running").kind(), ErrorKind::Conflict);
    assert_eq!(engine.pause(&id).expect_err("not running").kind(), ErrorKind::Conflict);
    engine.remove(&id, RemoveOptions::default()).expect("removed");
    assert_clean(&engine);
}

#[test]
fn a_container_with_rm_goes_when_nobody_reaped_it() {
    for state in [State::Running, State::Exited] {
        let (_scratch, engine) = with_image("auto-remove");
        let id = ran(&engine, true, state);
        let repairs = engine.reconcile();
        assert!(repairs.iter().any(|repair| matches!(repair, Repair::Removed(gone) if *gone == id)), "{repairs:?}");
        assert_clean(&engine);
        engine.reap(&id).expect("idempotent");
    }
}

#[test]
fn a_container_that_is_kept_only_loses_what_its_run_held() {
    let (_scratch, engine) = with_image("released");
    let id = ran(&engine, false, State::Exited);
    engine.reap(&id).expect("reaped");
    engine.reap(&id).expect("idempotent");
    assert_eq!(entries(&engine.paths.run_containers()), 0);
    assert_eq!(engine.wait(&id).expect("over"), 7);
    engine.remove(&id, RemoveOptions::default()).expect("removed");
    assert_clean(&engine);
}

#[test]
fn a_living_container_is_left_alone() {
    let (_scratch, engine) = with_image("alive");
    let id = ran(&engine, false, State::Running);
    let dir = engine.container_dir(&id).expect("opened");
    let lock = dir.try_lock().expect("free");
    assert!(engine.reconcile().is_empty());
    engine.reap(&id).expect("nothing to do");
    assert_eq!(engine.inspect(&id, false).expect("inspected").state, State::Running);
    let error = engine.remove(&id, RemoveOptions::default()).expect_err("running");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("container is running"), "{error}");
    let error = engine.start(&id, StartOptions::default()).expect_err("running");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    drop(lock);
    engine.remove(&id, RemoveOptions { force: true, volumes: false }).expect("removed");
    assert_clean(&engine);
}

#[test]
fn a_killed_removal_is_finished() {
    // Killed after the status, after the writable layer, after the directory was renamed, after it was deleted.
    for step in 0..4 {
        let (_scratch, engine) = with_image("killed-remove");
        let id = ran(&engine, false, State::Removing);
        engine.release(&id).expect("released");
        let dir = engine.paths.container(&id);
        if step >= 1 {
            storage::snapshot::remove_upper(&dir).expect("removed");
        }
        if step >= 2 {
            std::fs::rename(&dir, engine.paths.containers().join(format!(".{id}.deleted"))).expect("renamed");
        }
        if step >= 3 {
            std::fs::remove_dir_all(engine.paths.containers().join(format!(".{id}.deleted"))).expect("removed");
        }
        if step == 0 {
            let pruned = engine.prune_containers(&crate::PruneFilter::default()).expect("pruned");
            assert_eq!(pruned.containers, [id.to_string()], "taken up again");
        } else {
            assert!(!engine.reconcile().is_empty(), "step {step}");
        }
        assert!(engine.reconcile().is_empty(), "step {step}");
        assert_clean(&engine);
    }
}

#[test]
fn a_removal_that_got_no_further_than_its_mark_is_taken_up_by_the_next() {
    let (_scratch, engine) = with_image("killed-remove-again");
    let id = ran(&engine, false, State::Removing);
    engine.release(&id).expect("released");
    engine.remove(&id, RemoveOptions::default()).expect("taken up again");
    assert_clean(&engine);
}

#[test]
fn after_a_reboot_nothing_runs_and_nothing_is_held() {
    let (_scratch, engine) = with_image("reboot");
    let kept = ran(&engine, false, State::Running);
    let gone = ran(&engine, true, State::Running);
    for id in [&kept, &gone] {
        let dir = engine.container_dir(id).expect("opened");
        let status = Status { boot_id: "another".into(), ..dir.status().expect("read") };
        dir.write_status(&status, Durability::Volatile).expect("written");
    }
    std::fs::write(engine.paths.boot_stamp(), "another").expect("written");
    let repairs = engine.reconcile();
    assert!(repairs.iter().any(|repair| matches!(repair, Repair::NewBoot)), "{repairs:?}");
    assert!(!repairs.iter().any(|repair| matches!(repair, Repair::Failed(_))), "{repairs:?}");
    assert_eq!(engine.wait(&kept).expect("over"), 255);
    assert!(engine.lookup(gone.as_str()).is_err());
    engine.remove(&kept, RemoveOptions::default()).expect("removed");
    assert_clean(&engine);
}

#[test]
fn a_damaged_record_is_shown_and_can_be_removed_by_force() {
    let (_scratch, engine) = with_image("damaged");
    let id = engine.create(&spec(Some("web")), &Quiet).expect("created").id;
    let other = engine.create(&spec(Some("db")), &Quiet).expect("created").id;
    std::fs::write(engine.paths.container(&id).join("config"), "{\"version\":").expect("written");
    let engine = crate::Engine::open(engine.paths().clone()).expect("opened");
    let all = ContainerFilter { all: true, ..ContainerFilter::default() };
    let listed = engine.list(&all).expect("listed");
    assert_eq!(listed.iter().filter(|line| line.damaged.is_some()).count(), 1);
    assert_eq!(engine.inspect(&id, false).expect_err("damaged").kind(), ErrorKind::Damaged);
    assert_eq!(engine.start(&id, StartOptions::default()).expect_err("damaged").kind(), ErrorKind::Damaged);
    engine.remove(&id, RemoveOptions { force: true, volumes: false }).expect("removed");
    engine.remove(&other, RemoveOptions::default()).expect("removed");
    assert_clean(&engine);
}
