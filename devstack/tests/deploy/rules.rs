//! Prometheus's own tests of the rules, run by `promtool`.

use crate::debian::{self, run};

#[test]
fn promtool_finds_no_fault_with_configuration_and_rules() {
    let Some(promtool) = debian::program("prometheus", "promtool") else { return };
    let tests = ["deploy/prometheus/tests/alerts.yml", "deploy/prometheus/tests/objectives.yml"];
    for command in [
        &["check", "config", "--lint-fatal", "deploy/prometheus/prometheus.yml"][..],
        &["check", "rules", "--lint-fatal", "deploy/prometheus/rules/alerts.yml"],
        &["test", "rules", tests[0], tests[1]],
    ] {
        let (good, said) = run(&promtool, command);
        assert!(good, "{said}");
    }
}
