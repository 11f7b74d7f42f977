//! How failures of the crates below become the engine's: one table from their kinds to ours.

use rustix::io::Errno;

use crate::{Error, ErrorKind};

/// The kind of a refused system call.
fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOSPC | Errno::DQUOT => ErrorKind::NoSpace,
        Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::OPNOTSUPP => ErrorKind::Unsupported,
        _ => ErrorKind::System,
    }
}

/// The error of a refused system call with what is known to help against it.
fn refused(errno: Errno, sentence: String) -> Error {
    if errno == Errno::ROFS {
        return Error::new(ErrorKind::System, sentence)
            .hint("the file system is mounted read-only: remount it writable, or name another data root with --root");
    }
    with_hint(kind_of(errno), sentence)
}

/// An error of `kind` with what is known to help against it.
fn with_hint(kind: ErrorKind, sentence: String) -> Error {
    let error = Error::new(kind, sentence);
    match kind {
        ErrorKind::NoSpace => {
            error.hint("free space in the data root: lighter rm removes containers, lighter rmi images")
        }
        ErrorKind::Unsupported => {
            error.hint("a privilege or a kernel feature is missing: lighter info lists what this host lacks")
        }
        _ => error,
    }
}

impl From<sys::Error> for Error {
    fn from(error: sys::Error) -> Self {
        refused(error.errno(), error.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => refused(Errno::from_raw_os_error(errno), error.to_string()),
            None => Self::new(ErrorKind::System, error.to_string()),
        }
    }
}

impl From<container::Error> for Error {
    fn from(error: container::Error) -> Self {
        use container::Error as Below;
        match error {
            Below::System { doing, source } => refused(source.errno(), doing.to_owned()).because(source),
            Below::Damaged { .. } => Self::new(ErrorKind::Damaged, error.to_string())
                .hint("the container cannot be repaired; lighter rm -f removes it"),
            Below::NotFound(name) => Self::new(ErrorKind::NoSuchContainer, format!("No such container: {name}")),
            Below::NameInUse { name, id } => Self::new(
                ErrorKind::Conflict,
                format!("Conflict. The container name \"/{name}\" is already in use by container \"{id}\"."),
            )
            .hint("remove that container to be able to reuse its name, or choose another name"),
            Below::Refused(refused) => Self::new(ErrorKind::Conflict, refused.to_string()),
            Below::Locked | Below::Request(_) => Self::new(ErrorKind::Conflict, error.to_string()),
            _ => Self::new(ErrorKind::System, error.to_string()),
        }
    }
}

impl From<container::protocol::Failure> for Error {
    /// The failure of a start, as its monitor told it.
    fn from(failure: container::protocol::Failure) -> Self {
        use container::protocol::FailureKind as Below;
        let kind = match failure.kind {
            Below::CommandNotFound => ErrorKind::CommandNotFound,
            Below::CommandNotExecutable => ErrorKind::CommandNotExecutable,
            Below::Config | Below::UnknownUser | Below::Limit => ErrorKind::Invalid,
            Below::Unsupported => ErrorKind::Unsupported,
            Below::System | Below::Abandoned => ErrorKind::System,
        };
        let mut chain = failure.chain.into_iter();
        let first = chain.next().unwrap_or_else(|| "the container did not start".to_owned());
        let error = Self::new(kind, first);
        let error = match failure.kind {
            Below::Limit => {
                error.hint("a limit is below what the process needs to start, or above what may be set here")
            }
            Below::UnknownUser => error.hint("the user must be in the image's /etc/passwd, or a number"),
            _ => error,
        };
        match chain.collect::<Vec<_>>().join(": ") {
            causes if causes.is_empty() => error,
            causes => error.because(causes),
        }
    }
}

impl From<container::RuntimeError> for Error {
    fn from(error: container::RuntimeError) -> Self {
        use container::RuntimeErrorKind as Below;
        let kind = match error.kind() {
            Below::Config | Below::UnknownUser | Below::Limit => ErrorKind::Invalid,
            Below::CommandNotFound => ErrorKind::CommandNotFound,
            Below::CommandNotExecutable => ErrorKind::CommandNotExecutable,
            Below::Unsupported => ErrorKind::Unsupported,
            Below::System => error.cause().map_or(ErrorKind::System, |cause| kind_of(cause.errno())),
        };
        let sentence = error.doing().to_owned();
        match error.cause() {
            Some(cause) => Self::new(kind, sentence).because(cause.clone()),
            None => Self::new(kind, sentence),
        }
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        use storage::Error as Below;
        match &error {
            Below::Sys(cause) => refused(cause.errno(), error.to_string()),
            Below::Truncated
            | Below::Malformed { .. }
            | Below::Refused { .. }
            | Below::Limit { .. }
            | Below::Unpack(_)
            | Below::NoLayers => Self::new(ErrorKind::BadImage, error.to_string()),
            Below::Source(_) => Self::new(ErrorKind::BadImage, "cannot read the layer archive").because(error),
            Below::OtherVersion { .. } => {
                Self::new(ErrorKind::Damaged, error.to_string()).hint("use the version of lighter that wrote it")
            }
            Below::MissingLayer(_) | Below::Record { .. } => {
                Self::new(ErrorKind::Damaged, error.to_string()).hint("pull or load the image again")
            }
            Below::Archive(source) => {
                let errno = source.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
                refused(errno, error.to_string())
            }
            Below::NoSuchVolume(_) => Self::new(ErrorKind::NoSuchVolume, error.to_string()),
            Below::VolumeRecord { .. } => {
                Self::new(ErrorKind::Damaged, error.to_string()).hint("lighter volume rm removes it with all it holds")
            }
            Below::NoFreeRange(_) => {
                Self::new(ErrorKind::Conflict, error.to_string()).hint("stop containers, or use --userns=host")
            }
            _ => Self::new(ErrorKind::System, error.to_string()),
        }
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        use image::Error as Below;
        let sentence = error.to_string();
        match error {
            Below::Sys(cause) => refused(cause.errno(), sentence),
            Below::Read { source, .. } => {
                let kind = Self::from(source).kind();
                let kind = if kind == ErrorKind::System { ErrorKind::BadImage } else { kind };
                with_hint(kind, sentence)
            }
            Below::NoSuchImage(_) => Self::new(ErrorKind::NoSuchImage, sentence),
            Below::Ambiguous { .. } => Self::new(ErrorKind::Invalid, sentence).hint("give more characters of the id"),
            Below::Conflict(_) => Self::new(ErrorKind::Conflict, sentence),
            Below::DamagedRecord { .. } => {
                Self::new(ErrorKind::Damaged, sentence).hint("remove the image's name and pull or load it again")
            }
            Below::OtherVersion { .. } => {
                Self::new(ErrorKind::Damaged, sentence).hint("use the version of lighter that wrote it")
            }
            Below::MissingBlob(_) => Self::new(ErrorKind::Damaged, sentence).hint("pull or load the image again"),
            Below::Unreachable { .. } | Below::Transport { .. } | Below::NotFound { .. } | Below::Status { .. } => {
                Self::new(ErrorKind::Registry, sentence)
            }
            Below::Configuration { .. } => Self::new(ErrorKind::Invalid, sentence)
                .hint("what is configured for registries is wrong; docs/registries.md lists the files that are read"),
            Below::Blocked { .. } => Self::new(ErrorKind::Registry, sentence)
                .hint("a [[registry]] of registries.conf or lighter/registries.toml says blocked = true"),
            Below::Denied { .. } => Self::new(ErrorKind::Registry, sentence)
                .hint("the repository may not exist, or needs a login: lighter login REGISTRY"),
            Below::Write { source, .. } => with_hint(Self::from(source).kind(), sentence),
            Below::Login { .. } => {
                Self::new(ErrorKind::Registry, sentence).hint("check the user name and the password or access token")
            }
            Below::Helper { .. } => Self::new(ErrorKind::Registry, sentence)
                .hint("credential helpers are named in ~/.docker/config.json (credsStore, credHelpers)"),
            Below::Unpack { source, diff_id } => unpack(&diff_id, source),
            Below::NoPlatform { .. } => {
                Self::new(ErrorKind::NoSuchImage, sentence).hint("choose one of them with --platform")
            }
            Below::Unsupported(_) => Self::new(ErrorKind::Unsupported, sentence),
            _ => Self::new(ErrorKind::BadImage, sentence),
        }
    }
}

/// A layer that could not be unpacked: of the kind of what went wrong below.
fn unpack(diff_id: &oci::Digest, source: image::BoxError) -> Error {
    let sentence = format!("cannot unpack layer {diff_id}");
    match source.downcast::<storage::Error>() {
        Ok(below) => {
            let kind = Error::from(*below);
            with_hint(kind.kind(), sentence).because(kind.to_string())
        }
        Err(other) => match other.downcast::<image::Error>() {
            Ok(below) => Error::from(*below),
            Err(other) => Error::new(ErrorKind::BadImage, sentence).because(other),
        },
    }
}

impl From<oci::reference::InvalidReference> for Error {
    fn from(error: oci::reference::InvalidReference) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}

impl From<network::files::Invalid> for Error {
    fn from(error: network::files::Invalid) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}

impl Error {
    /// The same error with docker's sentence about the container `name`, when its state refused the request.
    pub(crate) fn of_container(error: container::Error, name: &str) -> Self {
        match error {
            container::Error::Refused(refused) => Self::new(ErrorKind::Conflict, refused.sentence(name)),
            other => other.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_have_their_kinds() {
        for (errno, kind) in [
            (Errno::NOSPC, ErrorKind::NoSpace),
            (Errno::DQUOT, ErrorKind::NoSpace),
            (Errno::PERM, ErrorKind::Unsupported),
            (Errno::NOSYS, ErrorKind::Unsupported),
            (Errno::IO, ErrorKind::System),
        ] {
            let error = Error::from(sys::Error::new("write", "x", errno));
            assert_eq!(error.kind(), kind, "{errno:?}");
            assert_eq!(error.hint_text().is_some(), kind != ErrorKind::System);
        }
    }

    #[test]
    fn a_read_only_data_root_is_said_to_be_one() {
        let error = Error::from(sys::Error::new("mkdirat", "x", Errno::ROFS));
        assert_eq!(error.kind(), ErrorKind::System);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("read-only")));
    }

    #[test]
    fn a_full_disk_under_an_unpacking_is_still_a_full_disk() {
        let cause = storage::Error::Sys(sys::Error::new("write", "layer", Errno::NOSPC));
        let digest = oci::Digest::sha256_of(b"x");
        let error = Error::from(image::Error::Unpack { diff_id: digest, source: cause.into() });
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let cause = storage::Error::Truncated;
        let digest = oci::Digest::sha256_of(b"x");
        let error = Error::from(image::Error::Unpack { diff_id: digest, source: cause.into() });
        assert_eq!(error.kind(), ErrorKind::BadImage);
    }

    #[test]
    fn names_in_use_are_said_in_dockers_words() {
        let id = container::ContainerId::from_random(&[1; 32]);
        let error = Error::from(container::Error::NameInUse { name: "web".parse().expect("a name"), id });
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().starts_with("Conflict. The container name \"/web\" is already in use by container"));
        assert!(error.hint_text().is_some());
    }
}
