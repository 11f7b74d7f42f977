//! Any bytes as device rules, as limits and as the kernel's files.

use oci::runtime::{LinuxDeviceCgroup, LinuxResources};

use super::devices::{Exception, Exceptions, Kind, Policy, access};
use super::model::{Request, interpret, model};
use super::path::GroupPath;
use super::{ebpf, file, host, limits_v1, limits_v2, stats, unified_path};
use crate::fuzzing::Draw;

const NUMBERS: [i64; 8] = [-1, 0, 1, 3, 5, 136, 4_294_967_295, 9];

fn rule(draw: &mut Draw<'_>) -> LinuxDeviceCgroup {
    let number = |draw: &mut Draw<'_>| (draw.byte() & 3 != 0).then(|| draw.of(&NUMBERS));
    LinuxDeviceCgroup {
        allow: draw.byte() & 1 == 0,
        kind: draw.of(&["", "a", "c", "b", "u"]).to_owned(),
        major: number(draw),
        minor: number(draw),
        access: draw.of(&["", "r", "w", "m", "rw", "rm", "wm", "rwm"]).to_owned(),
    }
}

/// Both forms decide each access as the rules mean, and the form for v1 is read back as it was written.
pub(crate) fn devices(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let list: Vec<_> = (0..draw.byte() % 12).map(|_| rule(&mut draw)).collect();
    let policy = Policy::new(&list).expect("made of valid words");
    let program = ebpf::compile(&policy);
    let exceptions = Exceptions::from_policy(&policy);
    for exception in exceptions.iter().flat_map(|exceptions| &exceptions.list) {
        let letter = if exception.kind == Kind::Block { 'b' } else { 'c' };
        assert_eq!(Exception::parse(&exception.line()), Some((letter, *exception)));
    }
    for kind in [Kind::Block, Kind::Char] {
        for major in [0, 1, 3, 5, 9, 136, 7, u32::MAX] {
            for minor in [0, 1, 3, 5, 9, 7, u32::MAX] {
                for access in 1..=access::ALL {
                    let request = Request { kind, major, minor, access };
                    let meant = model(&policy, request);
                    assert_eq!(interpret(&program, request), u64::from(meant), "{request:?} {list:?}");
                    if let Ok(exceptions) = &exceptions {
                        assert_eq!(decides(exceptions, request), meant, "{request:?} {list:?} {exceptions:?}");
                    }
                }
            }
        }
    }
}

/// How the kernel decides by a v1 list (`devcgroup_legacy_check_permission`, security/device_cgroup.c): allowed when one
/// exception covers all accesses wanted, denied when one covers any of them.
///
/// The kernel wants one exception for the whole request; two that cover it together do not allow it. An open(2) for
/// reading and writing is such a request, so the question is asked access by access here and the difference is left to
/// the kernel.
fn decides(exceptions: &Exceptions, request: Request) -> bool {
    [access::MKNOD, access::READ, access::WRITE].iter().filter(|&&bit| request.access & bit != 0).all(|&bit| {
        let excepted = exceptions.list.iter().any(|exception| {
            exception.kind == request.kind
                && exception.major.is_none_or(|major| major == request.major)
                && exception.minor.is_none_or(|minor| minor == request.minor)
                && exception.access & bit != 0
        });
        excepted != exceptions.allow
    })
}

/// `linux.resources`, as `update` takes them.
pub(crate) fn resources(bytes: &[u8]) {
    let Ok(resources) = serde_json::from_slice::<LinuxResources>(bytes) else { return };
    let plans = [
        limits_v1::plan(&resources),
        limits_v2::plan(&resources, None),
        limits_v2::plan(&resources, Some("max 100000")),
        limits_v1::rdma(&resources),
    ];
    for write in plans.into_iter().flatten().flatten() {
        assert!(!write.file.is_empty() && !write.file.contains(['/', '\0']), "{:?}", write.file);
    }
    let _ = Policy::new(&resources.devices).map(|policy| {
        let _ = Exceptions::from_policy(&policy);
        ebpf::compile(&policy)
    });
}

/// The kernel's files about control groups.
pub(crate) fn files(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for name in ["", "memory", "cpu,cpuacct", "name=systemd"] {
        let _ = host::mounted_at(text, name);
    }
    let _ = unified_path(text);
    if let Ok(path) = GroupPath::parse(text) {
        assert!(path.ancestors().all(|part| !part.split('/').any(|name| name == "..")), "{path:?}");
        assert!(GroupPath::parse(&path.to_string()).is_ok_and(|again| again == path), "{path:?}");
    }
    let detail = stats::detail(text);
    for (key, value) in file::entries(text) {
        assert!(detail.contains_key(key), "{key:?} {value}");
    }
    assert!(stats::block_v1(text, text).len() <= text.lines().count());
    assert!(stats::block_v2(text).len() <= text.lines().count());
    for line in text.lines() {
        if let Some((letter, exception)) = Exception::parse(line)
            && exception.access != 0
        {
            let again = Exception::parse(&exception.line()).map(|(_, again)| again);
            assert_eq!(again, Some(exception), "{letter} {line:?}");
        }
    }
}
