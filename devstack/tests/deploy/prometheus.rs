//! Prometheus on `deploy/prometheus/prometheus.yml`, with its own rules, scraping a stack of ours once a second.

use std::{path::Path, time::Duration};

use devstack::{
    child::Spec,
    services::ready::Ready,
    testing::{TestEnv, free_port},
};
use serde_json::Value;

use crate::{
    debian::workspace,
    stack::{Server, Stack},
};

pub(crate) struct Prometheus {
    url: String,
    http: reqwest::Client,
    _server: Server,
}

impl Prometheus {
    pub(crate) async fn start(env: &TestEnv, program: &Path, stack: &Stack) -> Self {
        let admin = |process: &devstack::testing::Process| process.admin_url("").replace("http://", "");
        let places = [
            ("gateway-1:9100", admin(&stack.gateways[0])),
            ("gateway-2:9100", admin(&stack.gateways[1])),
            ("persister:9101", admin(&stack.persister)),
            ("haproxy:8404", stack.balancer.stats.clone()),
            ("interval: 15s", "interval: 1s".to_owned()),
            ("rules/*.yml", workspace().join("deploy/prometheus/rules/*.yml").display().to_string()),
        ];
        let mut config = std::fs::read_to_string(workspace().join("deploy/prometheus/prometheus.yml")).unwrap();
        for (there, here) in places {
            assert!(config.contains(there), "prometheus.yml has no {there}");
            config = config.replace(there, &here);
        }
        let file = env.dir().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let spec = Spec::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", env.dir().join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"));
        let server = Server::start("prometheus", env, spec);
        let url = format!("http://{address}");
        server.ready(&Ready::Http(format!("{url}/-/ready"))).await;
        Self { url, http: reqwest::Client::new(), _server: server }
    }

    /// `data` of an API call's answer.
    async fn call(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/{path}", self.url), query).unwrap();
        let mut answer: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(answer["error"].to_string()) }
    }

    /// The values that an expression has now.
    pub(crate) async fn query(&self, expr: &str) -> Result<Vec<f64>, String> {
        let data = self.call("query", &[("query", expr)]).await?;
        let values = data["result"].as_array().unwrap().iter();
        Ok(values.map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect())
    }

    /// A label's values over all series of a metric.
    pub(crate) async fn label_values(&self, metric: &str, label: &str) -> Result<Vec<Value>, String> {
        let values = self.call(&format!("label/{label}/values"), &[("match[]", metric)]).await?;
        Ok(values.as_array().unwrap().clone())
    }

    /// All rules as Prometheus holds them.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let data = self.call("rules", &[]).await.unwrap();
        let groups = data["groups"].as_array().unwrap().iter();
        groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }
}

/// For the first answers: a rate needs two scrapes, and what changes slowly is read every 5 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);
