//! Prometheus's own tests of the rules, run by `promtool`.

use serde_json::Value;

use crate::debian::{self, run};

#[test]
fn promtool_finds_no_fault_with_configuration_and_rules() {
    let Some(promtool) = debian::program("prometheus", "promtool") else { return };
    let tests = ["alerts", "objectives", "operations"].map(|name| format!("deploy/prometheus/tests/{name}.yml"));
    for command in [
        &["check", "config", "--lint-fatal", "deploy/prometheus/prometheus.yml"][..],
        &[
            "check",
            "rules",
            "--lint-fatal",
            "deploy/prometheus/rules/alerts.yml",
            "deploy/prometheus/rules/operations.yml",
        ],
        &["test", "rules", &tests[0], &tests[1], &tests[2]],
    ] {
        let (good, said) = run(&promtool, command);
        assert!(good, "{said}");
    }
}

#[test]
fn alertmanager_routes_by_severity() {
    let Some(amtool) = debian::program("prometheus-alertmanager", "amtool") else { return };
    let file = "--config.file=deploy/alertmanager/alertmanager.yml";
    let (good, said) = run(&amtool, &["check-config", "deploy/alertmanager/alertmanager.yml"]);
    assert!(good, "{said}");
    for (labels, receiver) in [
        (&["alertname=PartylineNoGateway", "severity=page"], "pages"),
        (&["alertname=PartylineGatewayDown", "severity=ticket"], "tickets"),
        (&["alertname=PartylineWatchdog", "severity=none"], "dead-mans-switch"),
    ] {
        let (good, said) = run(&amtool, &["config", "routes", "test", file, labels[0], labels[1]]);
        assert!(good && said.lines().next() == Some(receiver), "{labels:?}: {said}");
    }
}

/// The runbook says of every alert what to do, under a heading that the alert's `runbook_url` names.
#[test]
fn every_alert_has_its_page_in_the_runbook() {
    let runbook = std::fs::read_to_string(debian::workspace().join("docs/runbook.md")).unwrap();
    for name in ["alerts", "operations"] {
        let file = format!("deploy/prometheus/rules/{name}.yml");
        let rules: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(debian::workspace().join(&file)).unwrap()).unwrap();
        let rules = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
        for rule in rules {
            let alert = rule["alert"].as_str().unwrap();
            let url = format!("{{{{ $externalLabels.runbook }}}}#{}", alert.to_lowercase());
            assert_eq!(rule["annotations"]["runbook_url"], url, "{alert}");
            assert!(runbook.contains(&format!("\n### {alert}\n")), "docs/runbook.md says nothing of {alert}");
        }
    }
}
