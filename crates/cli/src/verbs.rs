//! The table of verbs.

use engine::{Engine, Paths};

use crate::commands::{
    attach, df, exec, export, history, image_mount, images, inspect, lifecycle, login, logs, manifest, prune, ps, pull,
    push, run, save, search, start, store, system, transfer, volume,
};
use crate::failure::{Class, Outcome};
use crate::flags::{Flag, Verb, Words, container, later};

/// What every verb may need.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// Where the engine keeps its state.
    pub(crate) paths: Paths,
    /// When this process began, nanoseconds of CLOCK_MONOTONIC.
    pub(crate) started: u64,
}

impl App {
    /// The engine.
    ///
    /// # Errors
    /// The caller is not root.
    pub(crate) fn engine(&self) -> Outcome<Engine> {
        Ok(Engine::open(self.paths.clone())?)
    }
}

/// Verbs below a first word.
pub(crate) struct Group {
    /// The first word.
    pub(crate) name: &'static str,
    /// One line of help.
    pub(crate) about: &'static str,
    /// Second words and the verbs they stand for.
    pub(crate) words: &'static [(&'static str, &'static str)],
}

/// The groups.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "container",
        about: "Manage containers",
        words: &[
            ("attach", "attach"),
            ("create", "create"),
            ("exec", "exec"),
            ("export", "export"),
            ("inspect", "container inspect"),
            ("kill", "kill"),
            ("list", "ps"),
            ("logs", "logs"),
            ("ls", "ps"),
            ("pause", "pause"),
            ("prune", "container prune"),
            ("ps", "ps"),
            ("remove", "rm"),
            ("restart", "restart"),
            ("rm", "rm"),
            ("run", "run"),
            ("start", "start"),
            ("stop", "stop"),
            ("unpause", "unpause"),
            ("wait", "wait"),
        ],
    },
    Group {
        name: "image",
        about: "Manage images",
        words: &[
            ("history", "history"),
            ("import", "import"),
            ("inspect", "image inspect"),
            ("list", "images"),
            ("load", "load"),
            ("ls", "images"),
            ("mount", "image mount"),
            ("prune", "image prune"),
            ("pull", "pull"),
            ("push", "push"),
            ("remove", "rmi"),
            ("rm", "rmi"),
            ("save", "save"),
            ("tag", "tag"),
            ("umount", "image unmount"),
            ("unmount", "image unmount"),
            ("untag", "untag"),
        ],
    },
    Group {
        name: "manifest",
        about: "Put images for several platforms together under one name",
        words: &[
            ("annotate", "manifest annotate"),
            ("create", "manifest create"),
            ("inspect", "manifest inspect"),
            ("push", "manifest push"),
            ("rm", "manifest rm"),
        ],
    },
    Group {
        name: "volume",
        about: "Manage volumes",
        words: &[
            ("create", "volume create"),
            ("inspect", "volume inspect"),
            ("list", "volume ls"),
            ("ls", "volume ls"),
            ("prune", "volume prune"),
            ("remove", "volume rm"),
            ("rm", "volume rm"),
        ],
    },
    Group {
        name: "store",
        about: "Verify and repair what is stored",
        words: &[("check", "store check"), ("repair", "store repair")],
    },
    Group {
        name: "system",
        about: "Look at the engine",
        words: &[("df", "system df"), ("info", "info"), ("prune", "system prune")],
    },
];

const FORMAT: Flag = Flag::one("format", "TEMPLATE", "json, table, or a Go template").short('f');
const FORMAT_LONG: Flag = Flag::one("format", "TEMPLATE", "json, table, or a Go template");
const DEEP: Flag = Flag::switch("deep", "Unpack every layer again and compare it with the one in the store");
const KEYS: Flag = Flag::one("detach-keys", "KEYS", "Keys that detach from a terminal, as ctrl-p,ctrl-q");
const SIG_PROXY: Flag = Flag::switch("sig-proxy", "Forward signals to the process (on unless =false)");
const PLATFORM: Flag = Flag::one("platform", "OS/ARCH", "Platform of the image");
const NO_TRUNC: Flag = Flag::switch("no-trunc", "Do not shorten anything");
const STOP: &[Flag] = &[
    Flag::one("signal", "SIGNAL", "Signal to send first").short('s'),
    Flag::one("timeout", "SECONDS", "Time until SIGKILL, -1 for ever").short('t').alias(&["time"]),
];
const FORCE: Flag = Flag::switch("force", "Do not ask").short('f');
const PRUNE_FILTER: Flag = Flag::many("filter", "KEY=VALUE", "Only those that match: until=, label=, label!=");
const INSECURE: Flag = Flag::switch("insecure", "Allow plain HTTP to the registry");
const CONTAINERS: Words = Words::new("CONTAINER [CONTAINER...]", 1, None);
const INSPECT_OBJECT: &[Flag] = &[FORMAT, Flag::switch("size", "Measure the container's disk space").short('s')];

/// A verb that is listed and whose failures are 1.
const fn plain(
    name: &'static str,
    about: &'static str,
    words: Words,
    flags: &'static [&'static [Flag]],
    parse: fn(&crate::flags::Args) -> Outcome<crate::flags::Job>,
) -> Verb {
    Verb { name, about, flags, words, class: Class::Plain, hidden: false, parse }
}

/// A verb that runs a process and hands on its code.
const fn process(
    name: &'static str,
    about: &'static str,
    words: Words,
    flags: &'static [&'static [Flag]],
    parse: fn(&crate::flags::Args) -> Outcome<crate::flags::Job>,
) -> Verb {
    Verb { name, about, flags, words, class: Class::Process, hidden: false, parse }
}

const fn hidden(mut verb: Verb) -> Verb {
    verb.hidden = true;
    verb
}

/// All verbs, in the order of the help.
pub(crate) const VERBS: &[Verb] = &[
    process(
        "run",
        "Make a container from an image and run a command in it",
        Words::command("IMAGE [COMMAND] [ARG...]", 1),
        &[container::CONTAINER, container::RUN, container::CONTAINER_LATER],
        run::parse_run,
    ),
    process(
        "create",
        "Make a container without starting it",
        Words::command("IMAGE [COMMAND] [ARG...]", 1),
        &[container::CONTAINER, container::CONTAINER_LATER],
        run::parse_create,
    ),
    plain(
        "start",
        "Start containers",
        CONTAINERS,
        &[&[
            Flag::switch("attach", "Show the output, forward signals, and hand on the exit code").short('a'),
            Flag::switch("interactive", "Attach standard input too").short('i'),
            KEYS,
            SIG_PROXY,
            Flag::later("checkpoint", true, later::CHECKPOINTS),
            Flag::later("checkpoint-dir", true, later::CHECKPOINTS),
        ]],
        start::parse,
    ),
    process(
        "exec",
        "Run a command in a running container",
        Words::command("CONTAINER COMMAND [ARG...]", 2),
        &[&[
            Flag::switch("detach", "Leave it running in the background").short('d'),
            KEYS,
            Flag::many("env", "NAME[=VALUE]", "Set a variable; without a value, take the caller's").short('e'),
            Flag::many("env-file", "FILE", "Read variables from a file"),
            Flag::switch("interactive", "Keep standard input open").short('i'),
            Flag::switch("privileged", "All capabilities"),
            Flag::switch("tty", "Give it a terminal").short('t'),
            Flag::one("user", "USER[:GROUP]", "User and group, by name or number").short('u'),
            Flag::one("workdir", "PATH", "Working directory").short('w'),
        ]],
        exec::parse,
    ),
    process(
        "attach",
        "Connect to the streams of a running container",
        Words::new("CONTAINER", 1, Some(1)),
        &[&[KEYS, Flag::switch("no-stdin", "Do not attach standard input"), SIG_PROXY]],
        attach::parse,
    ),
    plain(
        "ps",
        "List containers",
        Words::new("", 0, Some(0)),
        &[&[
            Flag::switch("all", "Stopped ones too").short('a'),
            Flag::many("filter", "KEY=VALUE", "Only those that match").short('f'),
            FORMAT_LONG,
            Flag::one("last", "NUMBER", "Only the newest so many, all states").short('n'),
            Flag::switch("latest", "Only the newest, all states").short('l'),
            NO_TRUNC,
            Flag::switch("quiet", "Only ids").short('q'),
            Flag::switch("size", "Show disk space").short('s'),
        ]],
        ps::parse,
    ),
    plain(
        "logs",
        "Show what a container has written",
        Words::new("CONTAINER", 1, Some(1)),
        &[&[
            Flag::switch("details", "Show labels and variables named by the log options"),
            Flag::switch("follow", "Go on until the container stops").short('f'),
            Flag::one("since", "TIME", "From this moment on: RFC 3339, seconds since 1970, or 10m"),
            Flag::one("tail", "LINES", "Only the last so many lines, or all").short('n'),
            Flag::switch("timestamps", "Show when each line was written").short('t'),
            Flag::one("until", "TIME", "Before this moment"),
        ]],
        logs::parse,
    ),
    plain("stop", "Stop containers", CONTAINERS, &[STOP], lifecycle::parse_stop),
    plain(
        "kill",
        "Send a signal to containers",
        CONTAINERS,
        &[&[Flag::one("signal", "SIGNAL", "Signal to send (KILL)").short('s')]],
        lifecycle::parse_kill,
    ),
    plain("restart", "Stop and start containers", CONTAINERS, &[STOP], lifecycle::parse_restart),
    plain("pause", "Freeze containers", CONTAINERS, &[], lifecycle::parse_pause),
    plain("unpause", "Thaw containers", CONTAINERS, &[], lifecycle::parse_unpause),
    plain("wait", "Wait until containers end and print their exit codes", CONTAINERS, &[], lifecycle::parse_wait),
    plain(
        "rm",
        "Remove containers",
        CONTAINERS,
        &[&[
            Flag::switch("force", "Kill it when it runs").short('f'),
            Flag::switch("volumes", "Remove its anonymous volumes").short('v'),
            Flag::later("link", false, later::NETWORKS).short('l'),
        ]],
        lifecycle::parse_rm,
    ),
    plain(
        "inspect",
        "Show everything about containers, images and volumes",
        Words::new("NAME|ID [NAME|ID...]", 1, None),
        &[INSPECT_OBJECT, &[Flag::one("type", "TYPE", "container, image or volume")]],
        inspect::parse,
    ),
    hidden(plain(
        "container inspect",
        "Show everything about containers",
        CONTAINERS,
        &[INSPECT_OBJECT],
        inspect::parse_container,
    )),
    hidden(plain(
        "image inspect",
        "Show everything about images",
        Words::new("IMAGE [IMAGE...]", 1, None),
        &[&[FORMAT, Flag::later("platform", true, later::REGISTRY)]],
        inspect::parse_image,
    )),
    plain(
        "images",
        "List images",
        Words::new("[REPOSITORY[:TAG]]", 0, Some(1)),
        &[&[
            Flag::switch("all", "Untagged ones too").short('a'),
            Flag::switch("digests", "Show digests"),
            Flag::many("filter", "KEY=VALUE", "Only those that match").short('f'),
            FORMAT_LONG,
            NO_TRUNC,
            Flag::switch("quiet", "Only ids").short('q'),
            Flag::switch("tree", "Show each image's platforms below it"),
        ]],
        images::parse_list,
    ),
    plain(
        "pull",
        "Fetch an image from a registry",
        Words::new("NAME[:TAG|@DIGEST]", 1, Some(1)),
        &[&[
            INSECURE,
            PLATFORM,
            Flag::switch("quiet", "Only the image's name").short('q'),
            Flag::switch("all-tags", "Fetch all tags of the repository").short('a'),
            Flag::switch("disable-content-trust", "Do not check signatures: always so"),
        ]],
        pull::parse,
    ),
    plain(
        "push",
        "Send an image to a registry",
        Words::new("NAME[:TAG]", 1, Some(1)),
        &[&[
            Flag::switch("all-tags", "All tags of the repository").short('a'),
            INSECURE,
            Flag::one("platform", "OS/ARCH", "Push the image of this platform alone, without its index"),
            Flag::switch("quiet", "Only the image's name").short('q'),
            Flag::switch("disable-content-trust", "Do not check signatures: always so"),
        ]],
        push::parse,
    ),
    plain(
        "search",
        "Search a registry for images",
        Words::new("[HOST[:PORT]/]TERM", 1, Some(1)),
        &[&[
            Flag::many("filter", "KEY=VALUE", "Only those that match: is-official=, is-automated=, stars=").short('f'),
            FORMAT_LONG,
            Flag::one("limit", "NUMBER", "At most so many, 1 to 100 (25)"),
            NO_TRUNC,
        ]],
        search::parse,
    ),
    plain(
        "login",
        "Log in to a registry",
        Words::new("[REGISTRY]", 0, Some(1)),
        &[&[
            Flag::one("password", "PASSWORD", "Password; others can see it here").short('p'),
            Flag::switch("password-stdin", "Read the password from standard input"),
            Flag::one("username", "NAME", "User name").short('u'),
        ]],
        login::parse_login,
    ),
    plain("logout", "Forget a login", Words::new("[REGISTRY]", 0, Some(1)), &[], login::parse_logout),
    plain(
        "save",
        "Write images to an archive",
        Words::new("IMAGE [IMAGE...]", 1, None),
        &[&[
            Flag::one("output", "FILE", "Write this file instead of standard output").short('o'),
            Flag::many("platform", "OS/ARCH", "Save the image of this platform alone, without its index"),
        ]],
        save::parse,
    ),
    plain(
        "export",
        "Write a container's files to an archive",
        Words::new("CONTAINER", 1, Some(1)),
        &[&[Flag::one("output", "FILE", "Write this file instead of standard output").short('o')]],
        export::parse,
    ),
    plain(
        "load",
        "Load images from an archive",
        Words::new("", 0, Some(0)),
        &[&[
            Flag::one("input", "FILE", "Read this file instead of standard input").short('i'),
            PLATFORM,
            Flag::switch("quiet", "Do not show progress").short('q'),
        ]],
        transfer::parse_load,
    ),
    plain(
        "import",
        "Make an image from an archive of a root file system",
        Words::new("FILE|- [REPOSITORY[:TAG]]", 1, Some(2)),
        &[&[
            Flag::many("change", "INSTRUCTION", "Apply a Dockerfile instruction").short('c'),
            Flag::one("message", "TEXT", "Note it in the image's history").short('m'),
            PLATFORM,
        ]],
        transfer::parse_import,
    ),
    plain("tag", "Give an image another name", Words::new("IMAGE NAME[:TAG]", 2, Some(2)), &[], images::parse_tag),
    plain(
        "untag",
        "Take names from an image, which stays",
        Words::new("IMAGE [NAME[:TAG]...]", 1, None),
        &[],
        images::parse_untag,
    ),
    plain(
        "rmi",
        "Remove images",
        Words::new("IMAGE [IMAGE...]", 1, None),
        &[&[
            Flag::switch("force", "Even if it has several names or stopped containers").short('f'),
            Flag::switch("no-prune", "Keep untagged parents"),
            Flag::later("platform", true, later::REGISTRY),
        ]],
        images::parse_remove,
    ),
    plain(
        "history",
        "Show how an image was made",
        Words::new("IMAGE", 1, Some(1)),
        &[&[
            FORMAT_LONG,
            Flag::switch("human", "Sizes and dates for people (on unless =false)").short('H'),
            NO_TRUNC,
            PLATFORM,
            Flag::switch("quiet", "Only ids").short('q'),
        ]],
        history::parse,
    ),
    hidden(plain(
        "manifest inspect",
        "Show an image's manifest, or a list of them",
        Words::new("[LIST] MANIFEST", 1, Some(2)),
        &[&[INSECURE, Flag::switch("verbose", "Descriptor, platform and document of each").short('v')]],
        manifest::parse_inspect,
    )),
    hidden(plain(
        "manifest create",
        "Make a list of manifests that are on registries",
        Words::new("LIST MANIFEST [MANIFEST...]", 2, None),
        &[&[Flag::switch("amend", "Add to a list that is there").short('a'), INSECURE]],
        manifest::parse_create,
    )),
    hidden(plain(
        "manifest annotate",
        "Say what a manifest of a list runs on",
        Words::new("LIST MANIFEST", 2, Some(2)),
        &[&[
            Flag::one("arch", "ARCH", "Architecture, as arm64"),
            Flag::one("os", "OS", "Operating system, as linux"),
            Flag::many("os-features", "FEATURE,...", "Features of the operating system"),
            Flag::one("os-version", "VERSION", "Version of the operating system"),
            Flag::one("variant", "VARIANT", "Variant of the architecture, as v8"),
        ]],
        manifest::parse_annotate,
    )),
    hidden(plain(
        "manifest push",
        "Send a list, and the manifests it names, to a registry",
        Words::new("LIST", 1, Some(1)),
        &[&[INSECURE, Flag::switch("purge", "Forget the list once it is pushed").short('p')]],
        manifest::parse_push,
    )),
    hidden(plain(
        "manifest rm",
        "Forget lists that are here",
        Words::new("LIST [LIST...]", 1, None),
        &[],
        manifest::parse_remove,
    )),
    hidden(plain(
        "image mount",
        "Mount images on the host, read-only, or list those that are",
        Words::new("[IMAGE...]", 0, None),
        &[&[Flag::switch("all", "Mount all images").short('a'), Flag::one("format", "FORMAT", "json")]],
        image_mount::parse_mount,
    )),
    hidden(plain(
        "image unmount",
        "Unmount images",
        Words::new("[IMAGE...]", 0, None),
        &[&[
            Flag::switch("all", "All that are mounted").short('a'),
            Flag::switch("force", "Even if mounted several times, or in use").short('f'),
        ]],
        image_mount::parse_unmount,
    )),
    hidden(plain(
        "image prune",
        "Remove unused images",
        Words::new("", 0, Some(0)),
        &[&[Flag::switch("all", "Tagged ones too").short('a'), PRUNE_FILTER, FORCE]],
        prune::parse_image,
    )),
    hidden(plain(
        "container prune",
        "Remove all stopped containers",
        Words::new("", 0, Some(0)),
        &[&[PRUNE_FILTER, FORCE]],
        prune::parse_container,
    )),
    hidden(plain(
        "system prune",
        "Remove stopped containers and unused images",
        Words::new("", 0, Some(0)),
        &[&[
            Flag::switch("all", "Tagged images too").short('a'),
            PRUNE_FILTER,
            FORCE,
            Flag::switch("volumes", "Unused anonymous volumes too"),
        ]],
        prune::parse_system,
    )),
    hidden(plain(
        "system df",
        "Show what takes up the disk",
        Words::new("", 0, Some(0)),
        &[&[FORMAT_LONG, Flag::switch("verbose", "Each image, container and volume").short('v')]],
        df::parse,
    )),
    hidden(plain(
        "store check",
        "Verify all blobs, images, layers and volumes; exit code 1 when something is wrong",
        Words::new("", 0, Some(0)),
        &[&[FORMAT, DEEP]],
        store::parse_check,
    )),
    hidden(plain(
        "store repair",
        "Fetch or unpack again what is damaged, or remove it",
        Words::new("", 0, Some(0)),
        &[&[FORMAT, DEEP]],
        store::parse_repair,
    )),
    hidden(plain(
        "volume create",
        "Make a volume",
        Words::new("[NAME]", 0, Some(1)),
        &[&[
            Flag::one("driver", "DRIVER", "local").short('d'),
            Flag::many("label", "KEY[=VALUE]", "Set a label"),
            Flag::one("name", "NAME", "Its name, instead of the word"),
            Flag::many("opt", "KEY=VALUE", "Driver option: type, o, device").short('o'),
        ]],
        volume::parse_create,
    )),
    hidden(plain(
        "volume ls",
        "List volumes",
        Words::new("", 0, Some(0)),
        &[&[
            Flag::many("filter", "KEY=VALUE", "Only those that match: dangling=, driver=, label=, name=").short('f'),
            FORMAT_LONG,
            Flag::switch("quiet", "Only names").short('q'),
        ]],
        volume::parse_list,
    )),
    hidden(plain(
        "volume inspect",
        "Show everything about volumes",
        Words::new("VOLUME [VOLUME...]", 1, None),
        &[&[FORMAT]],
        volume::parse_inspect,
    )),
    hidden(plain(
        "volume rm",
        "Remove volumes",
        Words::new("VOLUME [VOLUME...]", 1, None),
        &[&[Flag::switch("force", "No failure when there is none of the name").short('f')]],
        volume::parse_remove,
    )),
    hidden(plain(
        "volume prune",
        "Remove unused volumes",
        Words::new("", 0, Some(0)),
        &[&[
            Flag::switch("all", "Named ones too").short('a'),
            Flag::many("filter", "KEY=VALUE", "Only those that match: all=, label=, label!="),
            FORCE,
        ]],
        volume::parse_prune,
    )),
    plain("info", "Show the engine and its host", Words::new("", 0, Some(0)), &[&[FORMAT]], system::parse_info),
    plain("version", "Show versions", Words::new("", 0, Some(0)), &[&[FORMAT]], system::parse_version),
    hidden(plain(
        "reap",
        "Release what an exited container held",
        Words::new("ID", 1, Some(1)),
        &[],
        lifecycle::parse_reap,
    )),
];

#[cfg(test)]
pub(crate) mod testing {
    //! Command lines of tests.

    use super::VERBS;
    use crate::flags::Args;

    /// The parsed flags of a verb.
    pub(crate) fn args(verb: &str, words: &[&str]) -> Args {
        let verb = VERBS.iter().find(|known| known.name == verb).expect("a verb");
        Args::for_test(verb, words)
    }
}
