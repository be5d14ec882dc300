//! Every query of every dashboard and every rule, asked of a real Prometheus that has scraped a loaded stack.

use std::collections::BTreeSet;

use devstack::testing::TestEnv;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    debian::{self, workspace},
    prometheus::{PATIENCE, Prometheus},
    stack::Stack,
    traffic::Traffic,
};

/// Pairs of people who talk all the time.
const PAIRS: usize = 4;
/// What metrics' names begin with; `up` is Prometheus's own.
const METRICS: [&str; 4] = ["partyline", "process_", "haproxy_", "up"];

/// A dashboard's file name and content.
fn dashboards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(workspace().join("deploy/grafana/dashboards")).unwrap();
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    };
    files.map(|file| read(file.unwrap().path())).collect()
}

/// The dashboards' queries, as Grafana would ask them for all nodes, each with its place.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for (file, board) in dashboards() {
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place = format!("{file}, {}", panel["title"]);
                let expr = target["expr"].as_str().unwrap();
                let expr = expr.replace("$node", ".*").replace("$__rate_interval", "30s");
                assert!(!expr.contains('$'), "{place}: an unknown variable in {expr}");
                queries.push((place, expr));
            }
        }
    }
    queries
}

/// `metric{labels}` wherever a metric is named in an expression.
fn selectors(expr: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    let mut rest = expr;
    while let Some(begin) = rest.find(is_name) {
        rest = &rest[begin..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let labels = after.strip_prefix('{').and_then(|inside| Some(inside.split_at(inside.find('}')?).0));
        if METRICS.iter().any(|prefix| name.starts_with(prefix)) {
            found.insert(labels.map_or(name.to_owned(), |labels| format!("{name}{{{labels}}}")));
        }
        rest = labels.map_or(after, |labels| &after[labels.len() + 2..]);
    }
    found
}

#[test]
fn selectors_are_found_in_expressions() {
    let expr = r#"sum by (job) (rate(partyline_a_total{x="up",y!~"a|b"}[5m])) / up > 0 or absent(up{job="g"})"#;
    let expected = [r#"partyline_a_total{x="up",y!~"a|b"}"#, "up", r#"up{job="g"}"#];
    assert_eq!(selectors(expr), expected.map(str::to_owned).into());
}

#[test]
fn dashboards_are_whole() {
    let sources = std::fs::read_to_string(workspace().join("deploy/grafana/provisioning/datasources/prometheus.yml"));
    let source = sources.unwrap().lines().find_map(|line| Some(line.trim().strip_prefix("uid: ")?.to_owned())).unwrap();
    let mut uids = BTreeSet::new();
    for (file, board) in dashboards() {
        assert!(uids.insert(board["uid"].as_str().unwrap().to_owned()), "{file}: its uid is another's");
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            let place = format!("{file}, {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{place}: its id is another's");
            let is_row = panel["type"] == "row";
            assert_eq!(is_row, panel["targets"].as_array().is_none_or(Vec::is_empty), "{place}: asks nothing");
            assert!(is_row || panel["datasource"]["uid"] == *source, "{place}: no such data source");
        }
    }
    assert_eq!(uids.len(), 4);
}

/// What an expression is without: an answer, or a number in it.
async fn ails(prometheus: &Prometheus, expr: &str) -> Option<String> {
    match prometheus.query(expr).await {
        Err(error) => Some(error),
        Ok(values) if values.is_empty() => Some("no data".into()),
        Ok(values) if !values.iter().any(|value| value.is_finite()) => Some(format!("no number: {values:?}")),
        Ok(_) => None,
    }
}

/// Alerts on nothing, or on metrics of exporters that don't run here.
const OF_OTHER_EXPORTERS: [&str; 3] = ["PartylineWatchdog", "PartylineCertificateEnds", "PartylineDiskFull"];

/// All that is dead, a line each.
async fn dead(prometheus: &Prometheus) -> Vec<String> {
    let mut expressions = queries();
    for (file, board) in dashboards() {
        for variable in board["templating"]["list"].as_array().unwrap() {
            let query = variable["query"].as_str().unwrap();
            let asked = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
            let (metric, label) = asked.split_once(", ").unwrap();
            let values = prometheus.label_values(metric, label).await.unwrap();
            assert!(values.len() < 10, "{values:?}");
            expressions.push((format!("{file}, ${}", variable["name"]), format!("count by ({label}) ({metric})")));
        }
    }
    for rule in prometheus.rules().await {
        let name = rule["name"].as_str().unwrap();
        if rule["health"] == "err" {
            expressions.push((format!("rule {name}: {}", rule["lastError"]), "absent(up)".into()));
        } else if rule["type"] == "recording" {
            expressions.push((format!("rule {name}"), name.into()));
        } else {
            if OF_OTHER_EXPORTERS.contains(&name) {
                continue;
            }
            let named = selectors(rule["query"].as_str().unwrap());
            assert!(!named.is_empty(), "{name} looks at nothing");
            // Its condition doesn't hold, rightly; but what it looks at must be there.
            expressions.extend(named.into_iter().map(|selector| (format!("alert {name}"), selector)));
        }
    }
    let mut dead = Vec::new();
    for (place, expr) in expressions {
        if let Some(why) = ails(prometheus, &expr).await {
            dead.push(format!("{place}: {expr}: {why}"));
        }
    }
    dead
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_dashboard_query_and_every_rule_is_alive_on_a_loaded_stack() {
    let Some(program) = debian::program("prometheus", "prometheus") else { return };
    let env = TestEnv::start().await.unwrap();
    let Some(stack) = Stack::start(&env, &[("PARTYLINE_MESSAGES_PER_MINUTE", "0")]).await else { return };
    let prometheus = Prometheus::start(&env, &program, &stack).await;
    let traffic = Traffic::start(&env, [&stack.balancer.url, &stack.balancer.url], PAIRS).await;

    let until = Instant::now() + PATIENCE;
    let mut left = dead(&prometheus).await;
    while !left.is_empty() {
        assert!(Instant::now() < until, "{} dead:\n{}", left.len(), left.join("\n"));
        sleep(std::time::Duration::from_millis(500)).await;
        left = dead(&prometheus).await;
    }
    let rules = prometheus.rules().await;
    assert!(rules.len() >= 40 && rules.iter().all(|rule| rule["health"] == "ok"), "{rules:#?}");
    drop(traffic);
    stack.stop().await;
}
