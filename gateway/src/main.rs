//! The life of a gateway process: settings, logs and metrics, the ports, serving, leaving.

use std::process::ExitCode;

use partyline_gateway::{
    config::{Config, DEFAULT_ADMIN_ADDR},
    metrics, server,
};
use partyline_shared::{healthcheck, settings, shutdown, tasks, telemetry, tls};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A message costs a fifth less CPU time than with the system's (docs/decisions/0011-allocator.md).
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = healthcheck::run(DEFAULT_ADMIN_ADDR) {
        return Ok(code);
    }
    tls::install_crypto_provider();
    let config: Config = settings::parse_or_exit();
    telemetry::init_logs(&config.telemetry);
    settings::log_unknown_variables();
    allow_descriptors(config.limits.max_connections);
    let recorder = telemetry::install_metrics()?;
    metrics::describe();
    tasks::install(metrics::task);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_name(tasks::THREAD_NAME).build()?.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let bound = tokio::select! {
            bound = server::bind(config, recorder) => bound?,
            () = shutdown.cancelled() => return Ok(ExitCode::SUCCESS),
            task = tasks::failed() => return Err(tasks::Failed(task).into()),
        };
        tracing::info!(http = %bound.http_addr()?, admin = %bound.admin_addr(), "listening");
        bound.serve(shutdown).await.map(|()| ExitCode::SUCCESS)
    })
}

/// A socket is a file: the usual soft limit of 1,024 would turn most people away.
fn allow_descriptors(sockets: u32) {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if allowed < u64::from(sockets) {
        tracing::info!(allowed, sockets, "the limit of open files is below PARTYLINE_MAX_CONNECTIONS");
    }
}
