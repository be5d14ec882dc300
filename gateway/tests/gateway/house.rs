//! Each trade has one place: whoever looks for a query, a subject, a metric or a publish finds all of them there.

use std::path::{Path, PathBuf};

struct Trade {
    name: &'static str,
    signs: &'static [&'static str],
    homes: &'static [&'static str],
}

const TRADES: &[Trade] = &[
    Trade {
        name: "SQL",
        signs: &["sqlx::query", "SELECT ", "INSERT INTO", "DELETE FROM"],
        homes: &["gateway/src/store", "persister/src/store", "devstack/src/store"],
    },
    Trade { name: "writing messages", signs: &["INSERT INTO messages"], homes: &["persister/src/store/messages"] },
    Trade {
        name: "NATS names",
        signs: &[
            "\"chat.log",
            "\"chat.live",
            "\"chat.node",
            "\"chat.user",
            "\"chat.seen",
            "\"chat.dead",
            "\"chat.control",
            "\"CHAT_",
            "\"$JS",
            "\"$KV",
            "\"traceparent",
        ],
        homes: &["shared/src/subjects"],
    },
    Trade {
        name: "metrics",
        signs: &["\"partyline_gateway_", "\"partyline_persister_", "counter!(", "gauge!(", "histogram!("],
        homes: &["gateway/src/metrics", "persister/src/metrics", "shared/src/task_metrics"],
    },
    Trade {
        name: "spans",
        signs: &["span_builder(", ".start_with_context(", "\"messaging."],
        homes: &["shared/src/trace", "gateway/src/trace", "persister/src/trace"],
    },
    Trade {
        // `nats::try_publish` never waits for a connection that is lost or slow.
        name: "publishing without JetStream",
        signs: &["client.publish("],
        homes: &["shared/src/nats"],
    },
    Trade {
        name: "publishing to JetStream",
        signs: &["send_publish(", "js.publish(", "jetstream().publish("],
        homes: &["gateway/src/log", "persister/src/dead_letter"],
    },
];

/// What processes run: their sources, without tests and comments.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for part in ["shared", "gateway", "persister", "devstack", "loadtest"] {
        find(&root.join(part).join("src"), &mut files);
    }
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            (path.strip_prefix(root).unwrap().display().to_string(), code)
        })
        .collect()
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

fn is_home(path: &str, home: &str) -> bool {
    path.strip_prefix(home).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

#[test]
fn every_trade_stays_in_its_house() {
    let sources = sources();
    let mut strays = Vec::new();
    for trade in TRADES {
        for home in trade.homes {
            let used = |(path, code): &(String, String)| {
                is_home(path, home) && trade.signs.iter().any(|sign| code.contains(sign))
            };
            assert!(sources.iter().any(used), "no {} in {home}: has it moved?", trade.name);
        }
        for (path, code) in &sources {
            let at_home = trade.homes.iter().any(|home| is_home(path, home));
            for sign in trade.signs.iter().filter(|sign| !at_home && code.contains(**sign)) {
                strays.push(format!("{path}: {sign} ({} is at home in {:?})", trade.name, trade.homes));
            }
        }
    }
    assert!(strays.is_empty(), "{strays:#?}");
}

/// Every task has a name and a policy, so that none ends unseen.
#[test]
fn every_task_is_spawned_with_a_policy() {
    let processes = |path: &str| ["shared/", "gateway/", "persister/"].iter().any(|part| path.starts_with(part));
    let policies = ["essential(", "essential_until(", "restarting(", "caught("];
    // What aborts tasks at their end: it does nothing that can panic.
    let exempt = ["gateway/src/tasks.rs"];
    let mut spawned = 0;
    let mut strays = Vec::new();
    for (path, code) in sources().iter().filter(|(path, _)| processes(path) && !exempt.contains(&path.as_str())) {
        for (start, sign) in ["tokio::spawn(", ".spawn("].iter().flat_map(|sign| code.match_indices(sign)) {
            let task = argument(&code[start + sign.len()..]);
            spawned += 1;
            if !policies.iter().any(|policy| task.contains(policy)) {
                strays.push(format!("{path}: {sign}{task})"));
            }
        }
    }
    assert!(spawned > 40, "{spawned} tasks: has the way to spawn them changed?");
    assert!(strays.is_empty(), "{strays:#?}");
}

/// The text up to the bracket that closes the one before it.
fn argument(code: &str) -> &str {
    let mut depth = 1;
    let end = code.find(|sign| {
        depth += match sign {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    &code[..end.unwrap_or(code.len())]
}

/// A variable that no program reads is logged, or refused as misspelt: the list of them has to be whole.
#[test]
fn shared_list_of_variables_is_that_of_the_programs() {
    let commands = [
        <partyline_gateway::config::Config as clap::CommandFactory>::command(),
        <partyline_persister::config::Config as clap::CommandFactory>::command(),
    ];
    let read: std::collections::BTreeSet<String> = commands
        .iter()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect();
    let listed = partyline_shared::settings::VARIABLES.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(read, listed, "shared/src/settings.rs: VARIABLES");
}
