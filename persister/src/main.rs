//! The life of a persister process: settings, logs and metrics, the admin port, persisting, a clean end.

use std::process::ExitCode;

use partyline_persister::{
    config::{Config, DEFAULT_ADMIN_ADDR},
    metrics,
    process::Persister,
};
use partyline_shared::{healthcheck, settings, shutdown, tasks, telemetry};

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = healthcheck::run(DEFAULT_ADMIN_ADDR) {
        return Ok(code);
    }
    let config: Config = settings::parse_or_exit();
    telemetry::init_logs(&config.telemetry);
    let recorder = telemetry::install_metrics()?;
    metrics::describe();
    tasks::install(metrics::task);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let persister = Persister::bind(config, recorder).await?;
        tracing::info!(admin = %persister.admin_addr()?, "listening");
        persister.run(shutdown).await.map(|()| ExitCode::SUCCESS)
    })
}
