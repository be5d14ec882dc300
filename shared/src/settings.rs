//! Settings: every one has a flag and an environment variable `PARTYLINE_…`; all mistakes are told at once.

use std::{ffi::OsString, path::PathBuf};

use axum::http::Uri;
use clap::{
    Args, Command, Parser, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    nats, postgres,
    secret::{Secret, SecretSource},
    subjects::MAX_PARTITIONS,
    tls::TlsFiles,
};

/// Checks that span fields, or that a parser can't make.
pub trait Check {
    /// What is wrong, one sentence each, naming the setting.
    fn problems(&self) -> Vec<String>;
}

/// Reads the process's settings; names every mistake at once, then exits with 2.
#[must_use]
pub fn parse_or_exit<T: Parser + Check>() -> T {
    match parse_from::<T>(std::env::args_os().collect()) {
        Ok(settings) => settings,
        Err(Failure::Told(error)) => error.exit(),
        Err(Failure::Problems(problems)) => {
            eprintln!("{} mistake(s) in the configuration:", problems.len());
            for problem in problems {
                eprintln!("  {problem}");
            }
            std::process::exit(2);
        }
    }
}

/// Why no settings came out.
#[derive(Debug)]
pub enum Failure {
    /// Help, version, or a command line that is no command line: clap says it best.
    Told(clap::Error),
    /// Every mistake found.
    Problems(Vec<String>),
}

/// [`parse_or_exit`] without the exit.
///
/// # Errors
/// [`Failure`].
pub fn parse_from<T: Parser + Check>(argv: Vec<OsString>) -> Result<T, Failure> {
    let mut argv = argv;
    let mut command = T::command();
    let mut problems = Vec::new();
    // clap stops at the first bad value: note it, leave that argument at its default, go on to the next. What spans
    // fields is looked at, too.
    let settings = loop {
        let error = match command.clone().try_get_matches_from(&argv) {
            Ok(matches) => break T::from_arg_matches(&matches).map_err(Failure::Told)?,
            Err(error) => error,
        };
        let Some((id, long)) = offender(&command, &error) else {
            return Err(Failure::Told(error));
        };
        problems.push(sentence(&error));
        if !take_out(&mut argv, &long) {
            command = command.mut_arg(id, |arg| arg.env(None));
        }
    };
    problems.extend(settings.problems());
    problems.extend(misspelt(variables()));
    if problems.is_empty() { Ok(settings) } else { Err(Failure::Problems(problems)) }
}

/// Removes `--long value` or `--long=value`.
///
/// # Returns
/// Whether it was there.
fn take_out(argv: &mut Vec<OsString>, long: &str) -> bool {
    let flag = format!("--{long}");
    let Some(place) = argv.iter().position(|word| {
        word.to_string_lossy().strip_prefix(&flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    }) else {
        return false;
    };
    let apart = argv[place].to_string_lossy() == flag;
    argv.drain(place..(place + 1 + usize::from(apart)).min(argv.len()));
    true
}

fn offender(command: &Command, error: &clap::Error) -> Option<(String, String)> {
    if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        return None;
    }
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    let long = shown.strip_prefix("--")?.split([' ', '=']).next()?;
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(long))?;
    Some((arg.get_id().to_string(), long.to_owned()))
}

fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The variables of all programs, which may share one environment: a test compares them with the programs' own.
pub const VARIABLES: &[&str] = &[
    "PARTYLINE_ADMIN_ADDR",
    "PARTYLINE_ALLOWED_ORIGINS",
    "PARTYLINE_BATCH_MAX",
    "PARTYLINE_BATCH_WAIT_MS",
    "PARTYLINE_CONNECTIONS_PER_USER",
    "PARTYLINE_DATABASE_CA_FILE",
    "PARTYLINE_DATABASE_CERT_FILE",
    "PARTYLINE_DATABASE_CONNECTIONS",
    "PARTYLINE_DATABASE_KEY_FILE",
    "PARTYLINE_DATABASE_PASSWORD",
    "PARTYLINE_DATABASE_PASSWORD_FILE",
    "PARTYLINE_DATABASE_POOLER",
    "PARTYLINE_DATABASE_URL",
    "PARTYLINE_DATABASE_URL_FILE",
    "PARTYLINE_DEDUP_SECONDS",
    "PARTYLINE_DRAIN_NOTICE_SECONDS",
    "PARTYLINE_DRAIN_SECONDS",
    "PARTYLINE_FRAMES_PER_SECOND",
    "PARTYLINE_GROUP_MAX",
    "PARTYLINE_HANDSHAKE_SECONDS",
    "PARTYLINE_HTTP_ADDR",
    "PARTYLINE_IDLE_SECONDS",
    "PARTYLINE_JOINED_MAX",
    "PARTYLINE_JWKS_CACHE_FILE",
    "PARTYLINE_JWKS_FILE",
    "PARTYLINE_JWKS_REFRESH_SECONDS",
    "PARTYLINE_JWKS_URL",
    "PARTYLINE_JWT_ALGORITHM",
    "PARTYLINE_JWT_AUDIENCE",
    "PARTYLINE_JWT_EXTRA_SECRETS",
    "PARTYLINE_JWT_ISSUER",
    "PARTYLINE_JWT_LEEWAY_SECONDS",
    "PARTYLINE_JWT_SECRET",
    "PARTYLINE_JWT_SECRET_FILE",
    "PARTYLINE_JWT_USER_CLAIM",
    "PARTYLINE_KEEP_ALIVE_SECONDS",
    "PARTYLINE_LOG",
    "PARTYLINE_LOG_BYTES",
    "PARTYLINE_LOG_FORMAT",
    "PARTYLINE_LOG_HOURS",
    "PARTYLINE_MAX_CONNECTIONS",
    "PARTYLINE_MAX_FRAME_BYTES",
    "PARTYLINE_MEMBERSHIP_SECONDS",
    "PARTYLINE_MESSAGES_BURST",
    "PARTYLINE_MESSAGES_PER_MINUTE",
    "PARTYLINE_MIGRATE",
    "PARTYLINE_NATS_CA_FILE",
    "PARTYLINE_NATS_CERT_FILE",
    "PARTYLINE_NATS_CREDENTIALS",
    "PARTYLINE_NATS_KEY_FILE",
    "PARTYLINE_NATS_NKEY_SEED",
    "PARTYLINE_NATS_NKEY_SEED_FILE",
    "PARTYLINE_NATS_PASSWORD",
    "PARTYLINE_NATS_PASSWORD_FILE",
    "PARTYLINE_NATS_REPLICAS",
    "PARTYLINE_NATS_SUBSCRIPTION_CAPACITY",
    "PARTYLINE_NATS_TOKEN",
    "PARTYLINE_NATS_TOKEN_FILE",
    "PARTYLINE_NATS_URL",
    "PARTYLINE_NATS_USER",
    "PARTYLINE_OTLP_ENDPOINT",
    "PARTYLINE_OUTBOUND_QUEUE_BYTES",
    "PARTYLINE_PARTITIONS",
    "PARTYLINE_PING_SECONDS",
    "PARTYLINE_PING_TIMEOUT_SECONDS",
    "PARTYLINE_PRESENCE_GRACE_SECONDS",
    "PARTYLINE_REFUSALS_MAX",
    "PARTYLINE_REQUESTS_PER_SECOND",
    "PARTYLINE_SERVICE_MESSAGES_PER_MINUTE",
    "PARTYLINE_STOP_SECONDS",
    "PARTYLINE_TEMP_ID_SECONDS",
    "PARTYLINE_TRACE_SAMPLE",
    "PARTYLINE_TRUSTED_PROXIES",
    "PARTYLINE_WEB_DIR",
];

/// Used by tests and by `devstack`, never by a program that serves.
const TEST_PREFIX: &str = "PARTYLINE_TEST_";

/// A variable so many letters from a setting is taken for a misspelt one.
const MISSPELT_LETTERS: usize = 2;

fn variables() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// The names among these that are no setting but start as one.
fn unknown(names: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    names.filter(|name| {
        name.starts_with("PARTYLINE_") && !name.starts_with(TEST_PREFIX) && !VARIABLES.contains(&name.as_str())
    })
}

/// Returns a sentence for each variable that is nearly a setting.
fn misspelt(names: impl Iterator<Item = String>) -> Vec<String> {
    let sentence = |name: String| {
        let (nearest, distance) = nearest(&name)?;
        (distance <= MISSPELT_LETTERS).then(|| format!("{name}: not a setting; {nearest} is one"))
    };
    unknown(names).filter_map(sentence).collect()
}

/// Logs the variables that start as a setting and are none. Kubernetes makes some of its own for each service, so they are
/// no mistake; misspelt ones are, and end the process before.
pub fn log_unknown_variables() {
    for name in unknown(variables()) {
        tracing::warn!(name, nearest = nearest(&name).map(|(nearest, _)| nearest), "not a setting of any program");
    }
}

fn nearest(name: &str) -> Option<(&'static str, usize)> {
    VARIABLES.iter().map(|&known| (known, distance(known, name))).min_by_key(|(_, distance)| *distance)
}

/// Letters to insert, delete or replace (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (n, letter) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for (m, other) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[m + 1];
            row[m + 1] = replaced.min(diagonal + 1).min(row[m] + 1);
        }
    }
    row[right.len()]
}

/// The way to NATS, and what the streams are made of. All processes of one system need the same values.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsSettings {
    /// Servers, comma-separated; `tls://` asks for TLS. User and password, or a token alone, may stand in the URL.
    #[arg(long, env = "PARTYLINE_NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true)]
    pub nats_url: String,
    /// A NATS credentials file (JWT and nkey). As all files with secrets of NATS it is read at each connection.
    #[arg(long, env = "PARTYLINE_NATS_CREDENTIALS")]
    pub nats_credentials: Option<PathBuf>,
    /// The user, if it does not stand in the URL.
    #[arg(long, env = "PARTYLINE_NATS_USER")]
    pub nats_user: Option<String>,
    /// The user's password.
    #[arg(long, env = "PARTYLINE_NATS_PASSWORD", hide_env_values = true)]
    pub nats_password: Option<Secret>,
    /// A file with the user's password.
    #[arg(long, env = "PARTYLINE_NATS_PASSWORD_FILE")]
    pub nats_password_file: Option<PathBuf>,
    /// A token, instead of a user.
    #[arg(long, env = "PARTYLINE_NATS_TOKEN", hide_env_values = true)]
    pub nats_token: Option<Secret>,
    /// A file with the token.
    #[arg(long, env = "PARTYLINE_NATS_TOKEN_FILE")]
    pub nats_token_file: Option<PathBuf>,
    /// The seed of an nkey (`SU…`), instead of a user.
    #[arg(long, env = "PARTYLINE_NATS_NKEY_SEED", hide_env_values = true)]
    pub nats_nkey_seed: Option<Secret>,
    /// A file with the seed of the nkey.
    #[arg(long, env = "PARTYLINE_NATS_NKEY_SEED_FILE")]
    pub nats_nkey_seed_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that NATS's certificate may come from, instead of the system's. With this
    /// setting every connection uses TLS, whatever the URL says.
    #[arg(long, env = "PARTYLINE_NATS_CA_FILE")]
    pub nats_ca_file: Option<PathBuf>,
    /// A client certificate (PEM, with its chain) for NATS.
    #[arg(long, env = "PARTYLINE_NATS_CERT_FILE")]
    pub nats_cert_file: Option<PathBuf>,
    /// The private key (PEM) of the client certificate.
    #[arg(long, env = "PARTYLINE_NATS_KEY_FILE")]
    pub nats_key_file: Option<PathBuf>,
    /// Copies of each stream: 1 on one server, 3 in a cluster.
    #[arg(long, env = "PARTYLINE_NATS_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nats_replicas: u8,
    /// Streams that the log is spread over, when the first process makes them (1 if not set). Later processes take the
    /// number that the streams have, and a process where another number is set does not start. `persister partitions
    /// --grow` makes it larger.
    #[arg(long, env = "PARTYLINE_PARTITIONS", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_PARTITIONS)))]
    pub partitions: Option<u16>,
    /// How long the log keeps events that are in Postgres, in hours. What is not in Postgres yet is kept until it is.
    #[arg(long, env = "PARTYLINE_LOG_HOURS", default_value_t = 72, value_parser = clap::value_parser!(u32).range(1..))]
    pub log_hours: u32,
    /// Bytes that the log may take, one copy of all partitions together; 0 sets no limit but JetStream's own. Once it is
    /// reached, events are refused (`unavailable`) until persisters have made room.
    #[arg(long, env = "PARTYLINE_LOG_BYTES", default_value_t = 0)]
    pub log_bytes: u64,
    /// How long JetStream itself recognises a repeated message, in seconds. Later repeats are
    /// found in the log and in Postgres.
    #[arg(long, env = "PARTYLINE_DEDUP_SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    pub dedup_seconds: u32,
    /// Messages that may wait in one subscription of this process; more are dropped, and read from the log. (A batched read
    /// of the log must fit.)
    #[arg(long, env = "PARTYLINE_NATS_SUBSCRIPTION_CAPACITY", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(512..=1_048_576))]
    pub nats_subscription_capacity: u32,
}

impl NatsSettings {
    /// The limit of one of so many partitions, as JetStream takes it: -1 for none.
    #[must_use]
    pub fn log_bytes_of(&self, partitions: u16) -> i64 {
        match self.log_bytes {
            0 => -1,
            bytes => i64::try_from(bytes / u64::from(partitions.max(1))).unwrap_or(i64::MAX).max(1),
        }
    }

    /// The password of [`Self::nats_user`].
    #[must_use]
    pub fn password(&self) -> SecretSource<'_> {
        let (text, file) = (self.nats_password.as_ref(), self.nats_password_file.as_deref());
        SecretSource { name: "PARTYLINE_NATS_PASSWORD", text, file }
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> SecretSource<'_> {
        let (text, file) = (self.nats_token.as_ref(), self.nats_token_file.as_deref());
        SecretSource { name: "PARTYLINE_NATS_TOKEN", text, file }
    }

    /// The seed of the nkey.
    #[must_use]
    pub fn nkey_seed(&self) -> SecretSource<'_> {
        let (text, file) = (self.nats_nkey_seed.as_ref(), self.nats_nkey_seed_file.as_deref());
        SecretSource { name: "PARTYLINE_NATS_NKEY_SEED", text, file }
    }

    /// The files of TLS.
    #[must_use]
    pub fn tls(&self) -> TlsFiles<'_> {
        TlsFiles {
            prefix: "PARTYLINE_NATS",
            ca: self.nats_ca_file.as_deref(),
            cert: self.nats_cert_file.as_deref(),
            key: self.nats_key_file.as_deref(),
        }
    }

    /// What is wrong across fields.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.tls().problems();
        for url in self.nats_url.split(',') {
            if url.trim().parse::<async_nats::ServerAddr>().is_err() {
                // The URL may hold a password: never shown.
                problems.push("PARTYLINE_NATS_URL: not a NATS URL (nats://host:port, comma-separated)".into());
            }
        }
        problems.extend(nats::auth_problems(self));
        if u64::from(self.dedup_seconds) > u64::from(self.log_hours) * 3_600 {
            problems.push("PARTYLINE_DEDUP_SECONDS: longer than PARTYLINE_LOG_HOURS keeps events".into());
        }
        if self.nats_replicas.is_multiple_of(2) {
            problems.push("PARTYLINE_NATS_REPLICAS: an even number survives no more than the odd one below it".into());
        }
        problems
    }
}

/// What lies between a process and Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pooler {
    /// Nothing, or a pooler in session mode.
    None,
    /// A pooler that gives each transaction any of its connections: PgBouncer with `pool_mode = transaction`.
    Transaction,
}

/// The way to Postgres.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Postgres")]
pub struct DatabaseSettings {
    /// postgres://user:password@host:port/database, with `?sslmode=verify-full` for TLS.
    #[arg(long, env = "PARTYLINE_DATABASE_URL", default_value = DATABASE_URL, hide_env_values = true)]
    pub database_url: String,
    /// A file with the URL. As the file with the password it is read again when it changes, for new connections.
    #[arg(long, env = "PARTYLINE_DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,
    /// The password, if it does not stand in the URL.
    #[arg(long, env = "PARTYLINE_DATABASE_PASSWORD", hide_env_values = true)]
    pub database_password: Option<Secret>,
    /// A file with the password.
    #[arg(long, env = "PARTYLINE_DATABASE_PASSWORD_FILE")]
    pub database_password_file: Option<PathBuf>,
    /// Connections at most.
    #[arg(long, env = "PARTYLINE_DATABASE_CONNECTIONS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_connections: u32,
    /// Certificates (PEM) of the authorities that Postgres's certificate may come from, besides the public ones. With this
    /// setting `sslmode` is `verify-full` unless the URL names `verify-ca`.
    #[arg(long, env = "PARTYLINE_DATABASE_CA_FILE")]
    pub database_ca_file: Option<PathBuf>,
    /// A client certificate (PEM, with its chain) for Postgres.
    #[arg(long, env = "PARTYLINE_DATABASE_CERT_FILE")]
    pub database_cert_file: Option<PathBuf>,
    /// The private key (PEM) of the client certificate.
    #[arg(long, env = "PARTYLINE_DATABASE_KEY_FILE")]
    pub database_key_file: Option<PathBuf>,
    /// What lies in between: `transaction` for PgBouncer in transaction mode.
    #[arg(long, env = "PARTYLINE_DATABASE_POOLER", value_enum, default_value_t = Pooler::None)]
    pub database_pooler: Pooler,
}

const DATABASE_URL: &str = "postgres://partyline@127.0.0.1:5432/partyline";

impl DatabaseSettings {
    /// The URL; read anew from its file, if there is one.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn url(&self) -> Result<Secret, String> {
        let text = Secret::from(self.database_url.clone());
        // The default counts as not given.
        let given = (self.database_url != DATABASE_URL || self.database_url_file.is_none()).then_some(&text);
        let source = SecretSource { name: DATABASE_URL_NAME, text: given, file: self.database_url_file.as_deref() };
        source.read()?.ok_or_else(|| format!("{DATABASE_URL_NAME}: empty"))
    }

    /// The setting that the URL comes from.
    #[must_use]
    pub fn url_name(&self) -> &'static str {
        if self.database_url_file.is_some() { "PARTYLINE_DATABASE_URL_FILE" } else { DATABASE_URL_NAME }
    }

    /// The password beside the URL.
    #[must_use]
    pub fn password(&self) -> SecretSource<'_> {
        let (text, file) = (self.database_password.as_ref(), self.database_password_file.as_deref());
        SecretSource { name: "PARTYLINE_DATABASE_PASSWORD", text, file }
    }

    /// Whether a part of the settings is in files, which may be replaced.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.database_url_file.is_some() || self.database_password_file.is_some()
    }

    /// The files of TLS.
    #[must_use]
    pub fn tls(&self) -> TlsFiles<'_> {
        TlsFiles {
            prefix: "PARTYLINE_DATABASE",
            ca: self.database_ca_file.as_deref(),
            cert: self.database_cert_file.as_deref(),
            key: self.database_key_file.as_deref(),
        }
    }

    /// What is wrong across fields.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.tls().problems();
        problems.extend(postgres::connect_options(self).err());
        problems
    }
}

const DATABASE_URL_NAME: &str = "PARTYLINE_DATABASE_URL";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Logs and traces.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs and traces")]
pub struct TelemetrySettings {
    /// What is logged: `info`, or directives such as `info,partyline_gateway=debug`.
    #[arg(long, env = "PARTYLINE_LOG", default_value = "info")]
    pub log: String,
    #[arg(long, env = "PARTYLINE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// An OpenTelemetry collector that takes traces by OTLP over HTTP (`http://collector:4318`); none: no traces.
    #[arg(long, env = "PARTYLINE_OTLP_ENDPOINT", hide_env_values = true)]
    pub otlp_endpoint: Option<String>,
    /// Which part of the requests and of the sockets' commands is traced, 0 to 1. A request that brings a
    /// `traceparent` has this decided already.
    #[arg(long, env = "PARTYLINE_TRACE_SAMPLE", default_value_t = 0.01, value_parser = part)]
    pub trace_sample: f64,
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "not a number from 0 to 1".to_owned())
}

impl TelemetrySettings {
    /// The collector, if there is one.
    #[must_use]
    pub fn collector(&self) -> Option<&str> {
        self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty())
    }

    /// What is wrong across fields.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log) {
            problems.push(format!("PARTYLINE_LOG: {error}"));
        }
        if let Some(endpoint) = self.collector() {
            let is_http = endpoint.parse::<Uri>().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.authority().is_some_and(|it| !it.host().is_empty() && !it.as_str().contains('@'))
                    && uri.query().is_none()
            });
            if !is_http {
                // It may hold a password: never shown.
                problems
                    .push("PARTYLINE_OTLP_ENDPOINT: not an HTTP URL without user and query (http://host:4318)".into());
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    struct Sample {
        #[command(flatten)]
        nats: NatsSettings,
        #[command(flatten)]
        database: DatabaseSettings,
        #[command(flatten)]
        telemetry: TelemetrySettings,
    }

    impl Check for Sample {
        fn problems(&self) -> Vec<String> {
            [self.nats.problems(), self.database.problems(), self.telemetry.problems()].concat()
        }
    }

    fn parse(args: &[&str]) -> Result<Sample, Failure> {
        parse_from(std::iter::once("x").chain(args.iter().copied()).map(Into::into).collect())
    }

    #[test]
    fn names_every_mistake_at_once() {
        let argv = [
            "--partitions",
            "0",
            "--log-hours",
            "x",
            "--nats-replicas=9",
            "--database-url",
            "mysql://x",
            "--log-hours=y",
        ];
        let Err(Failure::Problems(problems)) = parse(&argv) else {
            panic!("mistakes went unnoticed");
        };
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems[0].contains("--") && problems[4].contains("PARTYLINE_DATABASE_URL"), "{problems:?}");
    }

    #[test]
    fn misspelt_variables_are_named_with_the_setting_that_was_meant() {
        let names = ["PARTYLINE_PARTITION", "PARTYLINE_LOGS_HOUR", "PARTYLINE_NATS_URL", "PARTYLINE_TEST_DIR", "PATH"];
        assert_eq!(
            misspelt(names.map(str::to_owned).into_iter()),
            [
                "PARTYLINE_PARTITION: not a setting; PARTYLINE_PARTITIONS is one",
                "PARTYLINE_LOGS_HOUR: not a setting; PARTYLINE_LOG_HOURS is one",
            ]
        );
        // What Kubernetes makes of a service with the name `partyline`, and what the development tools read.
        for other in
            ["PARTYLINE_PORT", "PARTYLINE_SERVICE_HOST", "PARTYLINE_URL", "PARTYLINE_DATA_DIR", "PARTYLINE_DEMO"]
        {
            assert_eq!(misspelt(std::iter::once(other.to_owned())), [""; 0]);
        }
        assert_eq!((distance("abc", "abc"), distance("abc", "axcd"), distance("", "ab")), (0, 2, 2));
    }

    #[test]
    fn checks_across_fields() {
        let Err(Failure::Problems(problems)) =
            parse(&["--dedup-seconds", "999999", "--database-url", "mysql://x", "--nats-replicas", "2"])
        else {
            panic!("mistakes went unnoticed");
        };
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(parse(&[]).is_ok());
    }

    #[test]
    fn a_collector_is_an_http_url_and_a_sample_a_part_of_one() {
        for wrong in
            ["collector:4318", "grpc://collector:4317", "http://", "http://u:secret@c:4318", "http://c:4318/?k=secret"]
        {
            let Err(Failure::Problems(problems)) = parse(&["--otlp-endpoint", wrong]) else {
                panic!("{wrong} went unnoticed");
            };
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains("PARTYLINE_OTLP_ENDPOINT") && !problems[0].contains("secret"), "{problems:?}");
        }
        for wrong in ["1.5", "-1", "NaN", "all"] {
            assert!(parse(&[&format!("--trace-sample={wrong}")]).is_err(), "{wrong}");
        }
        for right in ["", "http://collector:4318", "https://traces.example/otlp/"] {
            assert!(parse(&["--otlp-endpoint", right, "--trace-sample", "0.5"]).is_ok(), "{right}");
        }
    }
}
