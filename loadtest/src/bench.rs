//! What every subcommand needs: whom to measure, tokens, how to connect.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::{
    own_stack::OwnStack,
    target::{self, Gateway, Protocol},
    tokens::Signer,
};

/// Tokens outlive the longest run that makes sense.
const TOKEN_SECONDS: u64 = 24 * 3_600;

/// Options of every subcommand.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Target")]
pub(crate) struct Target {
    /// A gateway's WebSocket, ws://HOST:PORT/ws; several times for several gateways, over which people are spread.
    /// Without it those that `make run` or `make cluster` has noted in the data folder; where none runs, a stack is
    /// started in its folder `loadtest`, and ended after the measurement.
    #[arg(long = "url", global = true, value_name = "URL")]
    urls: Vec<String>,
    /// The secret that signs tokens (HS256). Without it the one of `make run`, from the data folder's `env` file.
    #[arg(long, global = true, env = "PARTYLINE_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    secret: Option<String>,
    /// The data folder of `make run`; `.partyline/cluster-3` for that of `make cluster`.
    #[arg(long, global = true, env = "PARTYLINE_DATA_DIR", default_value = ".partyline", value_name = "DIR")]
    data_dir: PathBuf,
    /// A gateway's process, for CPU time and memory. Without it those that `make run` has noted in `pids.json`.
    #[arg(long = "pid", global = true, value_name = "PID")]
    pids: Vec<u32>,
    /// Begins the ids of all people. People of an earlier run are found again under the same one, and so are their
    /// conversations; without it they are new.
    #[arg(long, global = true, value_name = "TEXT")]
    prefix: Option<String>,
    /// What sockets speak.
    #[arg(long, global = true, default_value = "native", value_name = "PROTOCOL")]
    protocol: Protocol,
    /// Handshakes under way at once.
    #[arg(long, global = true, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    connecting: u16,
    /// Gateways of a stack that is started for the measurement.
    #[arg(long = "gateways", global = true, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    own_gateways: u16,
    /// Where to write the result as JSON: a file, or a folder for `loadtest-<command>.json`. Without it the data folder, or
    /// here where there is none.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Whom to measure, and how to connect.
pub(crate) struct Bench {
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) signer: Signer,
    pub(crate) pids: Vec<u32>,
    pub(crate) prefix: String,
    pub(crate) connecting: usize,
    /// Of `make run`; there may be none.
    data_dir: PathBuf,
    json: Option<PathBuf>,
}

impl Target {
    /// Starts a stack if nobody told of a gateway and none runs.
    ///
    /// # Errors
    /// If it doesn't start.
    pub(crate) async fn own_stack(&self) -> anyhow::Result<Option<OwnStack>> {
        if !self.urls.is_empty() || !target::noted(&self.data_dir).is_empty() {
            return Ok(None);
        }
        Ok(Some(OwnStack::start(&self.data_dir, self.own_gateways, self.secret.as_deref()).await?))
    }
}

impl Bench {
    /// # Errors
    /// If a URL is none, or there is no secret.
    pub(crate) fn new(target: Target, own: Option<&OwnStack>) -> anyhow::Result<Self> {
        let stack_dir = own.map_or(&target.data_dir, OwnStack::data_dir);
        let env = target::env_file(stack_dir);
        let secret = target.secret.or_else(|| env.get("PARTYLINE_JWT_SECRET").cloned()).with_context(|| {
            format!(
                "no secret to sign tokens with: --secret, PARTYLINE_JWT_SECRET, or {} as `make run` writes it",
                target.data_dir.join("env").display()
            )
        })?;
        let (mut pids, mut urls) = (target.pids, target.urls);
        if urls.is_empty() {
            let (noted_pids, noted_urls): (Vec<_>, Vec<_>) = target::noted(stack_dir).into_iter().unzip();
            anyhow::ensure!(!noted_urls.is_empty(), "no gateway is noted in {}", stack_dir.display());
            urls = noted_urls;
            pids = if pids.is_empty() { noted_pids } else { pids };
        }
        let gateways = urls.iter().map(|url| Gateway::parse(url, target.protocol)).collect::<anyhow::Result<_>>()?;
        let prefix = target.prefix.unwrap_or_else(|| format!("load-{:08x}", rand::random::<u32>()));
        let connecting = usize::from(target.connecting);
        let signer = Signer::new(&secret, TOKEN_SECONDS);
        Ok(Self { gateways, signer, pids, prefix, connecting, data_dir: target.data_dir, json: target.json })
    }

    /// A person's id.
    pub(crate) fn user(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// So many people, two by two.
    pub(crate) fn pairs(&self, people: usize) -> Vec<Vec<String>> {
        (0..people).step_by(2).map(|first| vec![self.user(first), self.user(first + 1)]).collect()
    }

    /// The gateways' processes.
    ///
    /// # Errors
    /// If none are known.
    pub(crate) fn known_pids(&self) -> anyhow::Result<&[u32]> {
        anyhow::ensure!(!self.pids.is_empty(), "which process is the gateway? --pid tells (pids.json has none)");
        Ok(&self.pids)
    }

    /// The gateways' URLs: where sockets connect.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.gateways.iter().map(Gateway::url).collect()
    }

    /// A file of this name in the data folder, or here where there is none.
    pub(crate) fn output(&self, name: &str) -> PathBuf {
        if self.data_dir.is_dir() { self.data_dir.join(name) } else { PathBuf::from(name) }
    }

    /// Writes a command's result as JSON.
    ///
    /// # Errors
    /// If it can't be written.
    pub(crate) fn write_json(&self, command: &str, result: &impl Serialize) -> anyhow::Result<()> {
        let name = format!("loadtest-{command}.json");
        let path = match &self.json {
            Some(folder) if folder.is_dir() => folder.join(name),
            Some(file) => file.clone(),
            None => self.output(&name),
        };
        let mut json = serde_json::to_vec_pretty(result)?;
        json.push(b'\n');
        std::fs::write(&path, json).with_context(|| path.display().to_string())?;
        println!("  summary: {}", path.display());
        Ok(())
    }
}
