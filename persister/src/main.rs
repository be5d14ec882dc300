//! The life of a persister process: settings, logs and metrics, the admin port, persisting, a clean end.

use std::{process::ExitCode, time::Duration};

use partyline_persister::{
    config::{Command, Config, DEFAULT_ADMIN_ADDR},
    dead, metrics, partitions,
    process::Persister,
    rewind,
    store::Store,
};
use partyline_shared::{healthcheck, settings, shutdown, tasks, telemetry, tls};

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = healthcheck::run(DEFAULT_ADMIN_ADDR) {
        return Ok(code);
    }
    tls::install_crypto_provider();
    let config: Config = settings::parse_or_exit();
    telemetry::init_logs(&config.telemetry);
    settings::log_unknown_variables();
    let recorder = telemetry::install_metrics()?;
    metrics::describe();
    tasks::install(metrics::task);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_name(tasks::THREAD_NAME).build()?.block_on(async {
        if let Some(command) = &config.command {
            return run_command(&config, command).await.map(|()| ExitCode::SUCCESS);
        }
        let shutdown = shutdown::on_signal()?;
        let persister = Persister::bind(config, recorder).await?;
        tracing::info!(admin = %persister.admin_addr()?, "listening");
        persister.run(shutdown).await.map(|()| ExitCode::SUCCESS)
    })
}

fn list(versions: &[i64]) -> String {
    if versions.is_empty() {
        return String::new();
    }
    format!(": {}", versions.iter().map(i64::to_string).collect::<Vec<_>>().join(", "))
}

async fn run_command(config: &Config, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Partitions { grow } => {
            let layout = match grow {
                Some(to) => partitions::grow(config, *to).await?,
                None => partitions::show(config).await?,
            };
            println!("{}", layout.partitions());
        }
        Command::Dead { action } => {
            let done = dead::run(config, action).await?;
            for line in &done.lines {
                println!("{line}");
            }
            anyhow::ensure!(done.failed == 0, "{} dead letter(s) stay", done.failed);
        }
        Command::Replay(replay) => {
            for (partition, from) in rewind::replay(config, replay).await? {
                match from {
                    Some(seq) => println!("partition {partition}: read again from seq {seq}"),
                    None => println!("partition {partition}: nothing to read again"),
                }
            }
        }
        Command::Migrate { lock_timeout_ms, attempts } => {
            let store = Store::connect_lazy(&config.database)?;
            let lock_timeout = Duration::from_millis(u64::from(*lock_timeout_ms));
            let applied = store.migrate(lock_timeout, *attempts).await?;
            store.finish_migration().await?;
            println!("{} migration(s) applied{}", applied.len(), list(&applied));
        }
    }
    Ok(())
}
