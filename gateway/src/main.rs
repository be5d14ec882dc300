//! The life of a gateway process: settings, logs and metrics, the ports, serving, leaving.

use partyline_gateway::{config::Config, metrics, server};
use partyline_shared::{settings, shutdown, telemetry};

fn main() -> anyhow::Result<()> {
    let config: Config = settings::parse_or_exit();
    telemetry::init_logs(&config.telemetry);
    let recorder = telemetry::install_metrics()?;
    metrics::describe();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let bound = tokio::select! {
            bound = server::bind(config, recorder) => bound?,
            () = shutdown.cancelled() => return Ok(()),
        };
        tracing::info!(http = %bound.http_addr()?, admin = %bound.admin_addr()?, "listening");
        bound.serve(shutdown).await
    })
}
