//! Connecting to NATS, and publishing without waiting for it.

use std::{
    fmt,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Auth, AuthError, Client, ConnectOptions, Event, ReconnectToServer, ServerAddr, connection::State,
    subject::ToSubject,
};
use bytes::Bytes;
use futures_util::FutureExt;
use nkeys::KeyPair;
use tokio::{
    sync::broadcast,
    task::unconstrained,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{secret::SecretSource, settings::NatsSettings, tasks, tls};

/// Between two pings; a connection on which three in a row are unanswered is given up.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// The same for a connection that does not reconnect: its end decides what becomes of the publishes in flight.
const SINGLE_PING_INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection that does not reconnect may take to be established.
const SINGLE_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts to connect at the start, at first and at most.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often the reason for a connection that does not come back is looked for.
const EXPLAIN_EVERY: Duration = Duration::from_secs(5);
/// After this time a failure is logged again.
const FAILURE_REPEATED_AFTER: Duration = Duration::from_secs(30);
/// An address where no server can listen.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// What a process must react to on its NATS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Connected,
    Disconnected,
}

/// Events of a connection. async-nats drops events when many come at once, so [`Client::connection_state`] has the last
/// word.
#[derive(Clone, Debug)]
pub struct LinkEvents {
    sender: broadcast::Sender<Link>,
    slow_consumers: Arc<AtomicU64>,
}

impl LinkEvents {
    /// Returns a receiver of all events from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Link> {
        self.sender.subscribe()
    }

    /// Returns the number of reports so far that a subscription's channel was full and a message was dropped. A flood
    /// of dropped messages is not counted whole, but every one is followed by a report.
    #[must_use]
    pub fn slow_consumers(&self) -> u64 {
        self.slow_consumers.load(Ordering::Acquire)
    }
}

/// Connects, waiting for the server to be there for any length of time, and reports what happens to the link. Why there
/// is no connection is logged: a certificate or a password that is refused may be mended at the server.
///
/// # Errors
/// If the settings are not valid.
pub async fn connect(settings: &NatsSettings, name: &str) -> anyhow::Result<(Client, LinkEvents)> {
    let (sender, _) = broadcast::channel(64);
    let events = LinkEvents { sender: sender.clone(), slow_consumers: Arc::default() };
    let mut log = FailureLog::default();
    let mut pause = CONNECT_PAUSE;
    let client = loop {
        let (options, servers) = options(settings, name)?;
        match with_events(options, settings, events.clone()).connect(&servers[..]).await {
            Ok(client) => break client,
            Err(error) => log.failed(&error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(CONNECT_PAUSE_MAX);
    };
    let (settings, name, connected) = (settings.clone(), name.to_owned(), client.clone());
    tokio::spawn(tasks::restarting("nats_explain", move || explain(settings.clone(), name.clone(), connected.clone())));
    Ok((client, events))
}

fn with_events(options: ConnectOptions, settings: &NatsSettings, events: LinkEvents) -> ConnectOptions {
    options
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| Duration::from_millis((50 << attempts.min(6)).min(2_000)))
        .ping_interval(PING_INTERVAL)
        .client_capacity(65_536)
        .subscription_capacity(settings.nats_subscription_capacity as usize)
        .event_callback(move |event| {
            let link = match &event {
                Event::Connected => Some(Link::Connected),
                Event::Disconnected => Some(Link::Disconnected),
                _ => None,
            };
            if matches!(event, Event::SlowConsumer(_)) {
                // One for each dropped message: not logged one by one.
                events.slow_consumers.fetch_add(1, Ordering::AcqRel);
            } else {
                tracing::info!(%event, "nats");
            }
            if let Some(link) = link {
                // Without a receiver the process is starting: it reads the state afresh.
                let _ = events.sender.send(link);
            }
            ready(())
        })
}

/// Logs why there is no connection: at once, when the reason changes, and again every half minute.
#[derive(Debug, Default)]
pub struct FailureLog {
    last: Option<(String, Instant)>,
}

impl FailureLog {
    /// Notes a failed attempt.
    pub fn failed(&mut self, error: &dyn fmt::Display) {
        let error = error.to_string();
        let is_known =
            self.last.as_ref().is_some_and(|(last, at)| *last == error && at.elapsed() < FAILURE_REPEATED_AFTER);
        if !is_known {
            tracing::warn!(error, "no connection to NATS");
            self.last = Some((error, Instant::now()));
        }
    }
}

/// Logs why a lost connection does not come back. async-nats reports only the kind of an error, so an attempt of its own
/// finds the reason.
async fn explain(settings: NatsSettings, name: String, client: Client) {
    let mut log = FailureLog::default();
    loop {
        sleep(EXPLAIN_EVERY).await;
        if client.connection_state() == State::Connected {
            continue;
        }
        let attempt = async {
            let (options, servers) = options(&settings, &format!("{name}-probe"))?;
            options.connect(&servers[..]).await?;
            anyhow::Ok(())
        };
        if let Err(error) = attempt.await {
            log.failed(&error);
        }
    }
}

/// A connection that ends with its first loss instead of reconnecting. Everything that waits in its queue ends with it,
/// while the queue of a client that reconnects is sent after the reconnection, however long that took.
#[derive(Debug)]
pub struct SingleConnection {
    pub client: Client,
    lost: CancellationToken,
}

impl SingleConnection {
    /// Connects to one of `servers`, once; adds the other servers of the cluster that it names.
    ///
    /// # Errors
    /// If no server takes the connection.
    pub async fn establish(settings: &NatsSettings, name: &str, servers: &mut Vec<ServerAddr>) -> anyhow::Result<Self> {
        let (options, configured) = options(settings, name)?;
        if servers.is_empty() {
            *servers = configured;
        }
        let lost = CancellationToken::new();
        let is_lost = lost.clone();
        let is_established = Arc::new(AtomicBool::new(false));
        let was_established = is_established.clone();
        let options = options
            // async-nats has no "never": each server is tried once now, and none can be reached later (see below).
            .max_reconnects(servers.len())
            .reconnect_delay_callback(|_| Duration::ZERO)
            .reconnect_to_server_callback(move |servers, _| {
                let next = servers.into_iter().next().filter(|_| was_established.load(Ordering::Acquire));
                ready(next.map(|server| ReconnectToServer { addr: server.addr, delay: Some(Duration::ZERO) }))
            })
            .connection_timeout(SINGLE_CONNECT_TIMEOUT)
            .ping_interval(SINGLE_PING_INTERVAL)
            .event_callback(move |event| {
                tracing::debug!(%event, "nats, a single connection");
                if event == Event::Disconnected {
                    is_lost.cancel();
                }
                ready(())
            });
        let tries = u32::try_from(servers.len()).unwrap_or(u32::MAX);
        let client = timeout(SINGLE_CONNECT_TIMEOUT * tries, options.connect(&servers[..])).await??;
        let settle = async {
            let known = client.server_pool().await?.into_iter().map(|server| server.addr).collect();
            // From here on a reconnection fails: the client's task ends, and its queue with it.
            client.set_server_pool(NOWHERE).await?;
            anyhow::Ok(known)
        };
        *servers = timeout(SINGLE_CONNECT_TIMEOUT, settle).await??;
        is_established.store(true, Ordering::Release);
        Ok(Self { client, lost })
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until the connection is lost.
    pub async fn lost(&self) {
        loop {
            // The event may have been dropped; the state is not.
            let event = timeout(Duration::from_secs(1), self.lost.cancelled()).await;
            if event.is_ok() || !self.is_connected() {
                return;
            }
        }
    }
}

/// Why [`try_publish`] did not publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    #[error("there is no connection to NATS")]
    Disconnected,
    #[error("the queue to NATS is full")]
    Full,
    #[error("not a valid subject or payload")]
    Invalid,
}

/// Publishes without waiting: what can't be queued for a connection that stands is dropped.
///
/// # Errors
/// If nothing was queued.
pub fn try_publish(client: &Client, subject: impl ToSubject, payload: Bytes) -> Result<(), NotPublished> {
    if client.connection_state() != State::Connected {
        return Err(NotPublished::Disconnected);
    }
    // Ready at once unless the queue is full; the task's budget must not make it look full.
    match unconstrained(client.publish(subject, payload)).now_or_never() {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) => Err(NotPublished::Invalid),
        None => Err(NotPublished::Full),
    }
}

fn options(settings: &NatsSettings, name: &str) -> anyhow::Result<(ConnectOptions, Vec<ServerAddr>)> {
    tls::install_crypto_provider();
    let servers = servers(&settings.nats_url)?;
    let own = settings.clone();
    // Called for each connection: a file that was replaced counts from the next one on.
    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let auth = authenticate(&own, &nonce).inspect_err(|error| tracing::error!(error, "no login for NATS"));
        ready(auth.map_err(AuthError::new))
    });
    options = options.name(name).request_timeout(Some(Duration::from_secs(5)));
    let files = settings.tls();
    // Servers that the cluster names come without a scheme: none of them may be talked to in plain text.
    let asks_for_tls = servers.iter().any(ServerAddr::tls_required) || files.ca.is_some() || files.cert.is_some();
    options = options.require_tls(asks_for_tls);
    if let Some(ca) = files.ca {
        options = options.add_root_certificates(ca.to_owned());
    }
    if let (Some(cert), Some(key)) = (files.cert, files.key) {
        options = options.add_client_certificate(cert.to_owned(), key.to_owned());
    }
    Ok((options, servers))
}

/// Returns what is wrong with the ways to log in.
pub(crate) fn auth_problems(settings: &NatsSettings) -> Vec<String> {
    let secrets = [settings.password(), settings.token(), settings.nkey_seed()];
    let mut problems: Vec<String> = secrets.iter().filter_map(SecretSource::problem).collect();
    let ways = [
        (settings.nats_user.is_some() || settings.password().is_given(), "PARTYLINE_NATS_USER"),
        (settings.token().is_given(), "PARTYLINE_NATS_TOKEN"),
        (settings.nkey_seed().is_given(), "PARTYLINE_NATS_NKEY_SEED"),
        (settings.nats_credentials.is_some(), "PARTYLINE_NATS_CREDENTIALS"),
    ];
    let given: Vec<&str> = ways.into_iter().filter(|(is_given, _)| *is_given).map(|(_, name)| name).collect();
    if given.len() > 1 {
        problems.push(format!("{}: one of them only", given.join(" and ")));
    } else if problems.is_empty()
        && let Err(error) = authenticate(settings, b"a nonce")
    {
        problems.push(error);
    }
    problems
}

/// Returns what the server is told of us. A URL's user counts only if no setting names another way.
fn authenticate(settings: &NatsSettings, nonce: &[u8]) -> Result<Auth, String> {
    let mut auth = Auth::new();
    let sign = |setting: &str, seed: &str| {
        let keys =
            KeyPair::from_seed(seed.trim()).map_err(|error| format!("{setting}: not the seed of an nkey: {error}"))?;
        let signature = keys.sign(nonce).map_err(|error| format!("{setting}: {error}"))?;
        Ok::<_, String>((keys.public_key(), signature))
    };
    if let Some(path) = &settings.nats_credentials {
        let setting = format!("PARTYLINE_NATS_CREDENTIALS: {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| format!("{setting}: {error}"))?;
        let part = |name: &str| block(&text, name).ok_or_else(|| format!("{setting}: no {name} in it"));
        auth.jwt = Some(part("NATS USER JWT")?.to_owned());
        auth.signature = Some(sign(&setting, part("USER NKEY SEED")?)?.1);
    } else if let Some(seed) = settings.nkey_seed().read()? {
        let (public_key, signature) = sign("PARTYLINE_NATS_NKEY_SEED", seed.reveal())?;
        (auth.nkey, auth.signature) = (Some(public_key), Some(signature));
    } else if let Some(token) = settings.token().read()? {
        auth.token = Some(token.reveal().to_owned());
    } else {
        let password = settings.password().read()?;
        match (&settings.nats_user, password) {
            (Some(user), Some(password)) => {
                (auth.username, auth.password) = (Some(user.clone()), Some(password.reveal().to_owned()));
            }
            (Some(_), None) => return Err("PARTYLINE_NATS_PASSWORD: needed with PARTYLINE_NATS_USER".into()),
            (None, Some(_)) => return Err("PARTYLINE_NATS_USER: needed with PARTYLINE_NATS_PASSWORD".into()),
            (None, None) => {
                let servers = servers(&settings.nats_url).unwrap_or_default();
                if let Some(server) = servers.iter().find(|it| it.username().is_some()) {
                    let user = server.username().map(str::to_owned);
                    match server.password() {
                        Some(password) => (auth.username, auth.password) = (user, Some(password.to_owned())),
                        // As NATS's own clients read it.
                        None => auth.token = user,
                    }
                }
            }
        }
    }
    Ok(auth)
}

/// Returns the text between `-----BEGIN name-----` and the next line of dashes.
fn block<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {name}-----"))?;
    let (body, _) = rest.split_once("\n-----")?;
    Some(body.trim())
}

/// Servers of one cluster, comma-separated.
pub(crate) fn servers(url: &str) -> anyhow::Result<Vec<ServerAddr>> {
    Ok(url.split(',').map(|it| it.trim().parse()).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    #[test]
    fn a_url_may_name_several_servers_and_a_user() {
        let found = servers("nats://u:p@one:4222, nats://two:4223").unwrap();
        assert_eq!(found.iter().map(|it| (it.host(), it.port())).collect::<Vec<_>>(), [("one", 4222), ("two", 4223)]);
        assert_eq!(found[0].username().zip(found[0].password()), Some(("u", "p")));
        assert!(servers("nats://one:notaport").is_err());
    }

    fn settings(args: &[&str]) -> NatsSettings {
        let command = NatsSettings::augment_args(clap::Command::new("test").no_binary_name(true));
        NatsSettings::from_arg_matches(&command.get_matches_from(args)).unwrap()
    }

    #[test]
    fn a_setting_goes_before_the_user_in_the_url_and_a_user_alone_is_a_token() {
        let auth = |args: &[&str]| authenticate(&settings(args), b"nonce").unwrap();
        let url = ["--nats-url", "nats://u:p@one:4222"];
        assert_eq!((auth(&url).username.as_deref(), auth(&url).password.as_deref()), (Some("u"), Some("p")));
        let set = auth(&[&url[..], &["--nats-user", "other", "--nats-password", "secret"]].concat());
        assert_eq!((set.username.as_deref(), set.password.as_deref()), (Some("other"), Some("secret")));
        assert_eq!(auth(&["--nats-url", "nats://token@one:4222"]).token.as_deref(), Some("token"));
        assert_eq!(auth(&[&url[..], &["--nats-token", "other"]].concat()).username, None);
    }

    #[test]
    fn every_mistake_in_the_login_is_named() {
        let problems = |args: &[&str]| auth_problems(&settings(args));
        assert_eq!(problems(&[]), [""; 0]);
        assert!(problems(&["--nats-user", "u"])[0].starts_with("PARTYLINE_NATS_PASSWORD: needed"));
        assert!(problems(&["--nats-password", "p"])[0].starts_with("PARTYLINE_NATS_USER: needed"));
        assert!(problems(&["--nats-nkey-seed", "SUWRONG"])[0].starts_with("PARTYLINE_NATS_NKEY_SEED: "));
        assert!(problems(&["--nats-credentials", "/nowhere"])[0].starts_with("PARTYLINE_NATS_CREDENTIALS: /nowhere: "));
        let two = problems(&["--nats-token", "t", "--nats-credentials", "/nowhere"]);
        assert_eq!(two, ["PARTYLINE_NATS_TOKEN and PARTYLINE_NATS_CREDENTIALS: one of them only"]);
    }

    #[test]
    fn credentials_are_read_as_nsc_writes_them() {
        let text = "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln-_x\n------END NATS USER JWT------\n\n\
                    *** IMPORTANT ***\n-----BEGIN USER NKEY SEED-----\nSUAIO\n------END USER NKEY SEED------\n";
        assert_eq!(block(text, "NATS USER JWT"), Some("eyJ0.eyJq.c2ln-_x"));
        assert_eq!(block(text, "USER NKEY SEED"), Some("SUAIO"));
        assert_eq!(block(text, "ACCOUNT"), None);
    }
}
