//! `docs/metrics.md` against what a loaded gateway and persister expose.

use std::collections::{BTreeMap, BTreeSet};

use devstack::testing::{Process, TestEnv};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    debian::{self, workspace},
    exposition::{self, Metric},
    traffic::Pair,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Series of one metric in one process, at most: more, and some label is not bounded.
const MOST_SERIES: usize = 64;

/// What the page says of a metric.
struct Row {
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
}

/// The page's rows, by heading and name.
fn documented() -> BTreeMap<String, BTreeMap<String, Row>> {
    let page = std::fs::read_to_string(workspace().join("docs/metrics.md")).unwrap();
    let mut documented = BTreeMap::<_, BTreeMap<_, _>>::new();
    let mut heading = "";
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        }
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim()).collect();
        let Some(name) = cells.get(1).and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`')) else { continue };
        assert_eq!(cells.len(), 8, "{line}");
        let labels = cells[4].split([',', '`', ' ']).filter(|label| !label.is_empty()).map(str::to_owned).collect();
        let row = Row { kind: cells[2].to_owned(), unit: cells[3].to_owned(), labels };
        let before = documented.entry(heading.to_owned()).or_default().insert(name.to_owned(), row);
        assert!(before.is_none(), "{name} stands twice");
        assert!(!cells[5].is_empty(), "{name} has no meaning");
    }
    documented
}

async fn scrape(process: &Process) -> String {
    reqwest::get(process.admin_url("/metrics")).await.unwrap().text().await.unwrap()
}

/// What a process exposes, once it exposes all that is expected of it.
async fn exposed(process: &Process, expected: &BTreeSet<&String>) -> BTreeMap<String, Metric> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut metrics = exposition::parse(&scrape(process).await);
        metrics.retain(|_, metric| metric.series > 0);
        let names: BTreeSet<_> = metrics.keys().collect();
        if *expected == names {
            return metrics;
        }
        let missing: Vec<_> = expected.difference(&names).collect();
        let unknown: Vec<_> = names.difference(expected).collect();
        assert!(unknown.is_empty(), "not in docs/metrics.md: {unknown:?}");
        assert!(Instant::now() < until, "in docs/metrics.md, but not exposed: {missing:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let env = TestEnv::start().await.unwrap();
    let gateway = env.gateway().unwrap().env("PARTYLINE_MESSAGES_PER_MINUTE", "0");
    let persister = env.persister().unwrap();
    let (gateway, persister) = tokio::join!(gateway.start(), persister.start());
    let (gateway, persister) = (gateway.unwrap(), persister.unwrap());
    let mut pair = Pair::meet(&env, [&gateway.url(""), &gateway.url("")], 0).await;
    pair.talk().await;

    let page = documented();
    let every = &page["Every process"];
    for (heading, process) in [("Gateway", &gateway), ("Persister", &persister)] {
        let rows: BTreeMap<_, _> = page[heading].iter().chain(every).collect();
        let metrics = exposed(process, &rows.keys().copied().collect()).await;
        for (name, row) in rows {
            let metric = &metrics[name];
            assert_eq!((&metric.kind, &metric.labels), (&row.kind, &row.labels), "{name}: exposed, and documented");
            assert!(metric.has_help, "{name} does not say what it is");
            assert!(metric.series <= MOST_SERIES, "{name} has {} series", metric.series);
            // Not seconds that count something else, nor bytes that go unnamed.
            for base in ["seconds", "bytes"] {
                let named = name.trim_end_matches("_total").ends_with(&format!("_{base}"));
                assert_eq!(named, row.unit == base, "{name} in {}", row.unit);
            }
        }
    }
    if let Some(promtool) = debian::program("prometheus", "promtool") {
        for process in [&gateway, &persister] {
            let file = env.dir().join("metrics.txt");
            std::fs::write(&file, scrape(process).await).unwrap();
            let check = format!("'{}' check metrics < '{}'", promtool.display(), file.display());
            let (good, said) = debian::run("sh".as_ref(), &["-c", &check]);
            assert!(good && said.is_empty(), "{said}");
        }
    }
}
