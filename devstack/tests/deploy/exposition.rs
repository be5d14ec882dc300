//! Prometheus's text format, as far as names, types and labels go.

use std::collections::{BTreeMap, BTreeSet};

/// What `/metrics` tells of one metric.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) kind: String,
    pub(crate) has_help: bool,
    /// Without those that a histogram has of itself.
    pub(crate) labels: BTreeSet<String>,
    pub(crate) series: usize,
}

/// By name; `_bucket`, `_sum` and `_count` belong to their histogram.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics = BTreeMap::<String, Metric>::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            metrics.entry(name.into()).or_default().kind = kind.into();
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            metrics.entry(name.into()).or_default().has_help = !help.trim().is_empty();
        } else {
            let (name, labels) = series(line);
            let of_histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|name| metrics.get(*name).is_some_and(|metric| metric.kind == "histogram"));
            let metric = metrics.entry(of_histogram.unwrap_or(name).into()).or_default();
            metric.series += usize::from(of_histogram.is_none() || name.ends_with("_count"));
            metric.labels.extend(labels.into_iter().filter(|label| *label != "le").map(str::to_owned));
        }
    }
    metrics
}

/// Name and labels of a sample's line. Our label values hold no quote and no comma.
fn series(line: &str) -> (&str, Vec<&str>) {
    match line.split_once('{') {
        None => (line.split(' ').next().unwrap(), Vec::new()),
        Some((name, rest)) => {
            let inside = rest.split_once('}').unwrap().0;
            (name, inside.split(',').map(|pair| pair.split_once('=').unwrap().0).collect())
        }
    }
}
