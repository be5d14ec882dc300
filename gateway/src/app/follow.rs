//! What a node hears: of its own connection to NATS, from other nodes, from presence.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{Subscriber, connection::State};
use futures_util::StreamExt;
use partyline_shared::{
    ids::UserId,
    nats::{self, LinkEvents},
    subjects,
};
use serde::Serialize;
use tokio::{
    sync::{broadcast, mpsc},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{Chat, highest_seq};
use crate::{
    encode::{Class, Frame},
    log::{Behind, NotVerified},
    metrics,
    presence::Change,
    tasks::{self, essential, restarting},
};

/// Between two looks at the connections to NATS that no event asks for.
const LINK_GLANCE: Duration = Duration::from_secs(1);
/// How long the state of a connection may take to follow its event.
const EVENT_LEAD: Duration = Duration::from_millis(5);
/// Between two looks at the streams for reasons other than a reconnection.
const DOUBT_GAP: Duration = Duration::from_secs(1);
/// Between two looks whether the connections to NATS stand again.
const LINK_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Between two looks at how far Postgres is behind the log.
const LOG_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What nodes tell each other.
pub(super) struct Told {
    pub(super) members_changed: Subscriber,
    pub(super) users_changed: Subscriber,
    pub(super) log_restarted: Subscriber,
    pub(super) presence_tidied: Subscriber,
}

/// Follows everything until `end`.
pub(super) fn all(
    chat: &Arc<Chat>,
    link: LinkEvents,
    told: Told,
    to_tell: mpsc::UnboundedReceiver<Change>,
    end: &CancellationToken,
) {
    let (doubting, watching) = (chat.clone(), chat.clone());
    tasks::until(
        end.clone(),
        [
            tokio::spawn(essential("follow_link", follow_link(chat.clone(), link))),
            tokio::spawn(restarting("follow_doubt", move || Box::pin(follow_doubt(doubting.clone())))),
            tokio::spawn(restarting("watch_log", move || Box::pin(watch_log(watching.clone())))),
            tokio::spawn(essential("follow_restarts", follow_restarts(chat.clone(), told.log_restarted))),
            tokio::spawn(essential("follow_members", follow_members(chat.clone(), told.members_changed))),
            tokio::spawn(essential("follow_users", follow_users(chat.clone(), told.users_changed))),
            tokio::spawn(essential("follow_tidying", follow_tidying(chat.clone(), told.presence_tidied))),
            tokio::spawn(essential("tell_presence", tell_presence(chat.clone(), to_tell))),
        ],
    );
}

/// What this node knows of its connections to NATS.
struct LinkState {
    /// Times that the subscribing connection was established.
    connects: u64,
    connected: bool,
    slow_consumers: u64,
}

/// Keeps readiness in step with the connections, and looks up what may have been missed: after a reconnection, and at
/// most once a second while messages are dropped. Events only make it look sooner, since async-nats drops events when
/// many come at once.
async fn follow_link(chat: Arc<Chat>, link: LinkEvents) {
    let mut events = link.subscribe();
    let mut tick = tokio::time::interval(LINK_GLANCE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    metrics::nats_event("connected", 1);
    let mut state = LinkState { connects: 1, connected: true, slow_consumers: 0 };
    loop {
        look_at_link(&chat, &link, &mut state).await;
        tokio::select! {
            _ = tick.tick() => {}
            () = chat.log.append_changed() => {}
            event = events.recv() => {
                if let Err(broadcast::error::RecvError::Closed) = event {
                    return;
                }
                // async-nats sends the event before it changes the state.
                tokio::time::sleep(EVENT_LEAD).await;
            }
        }
    }
}

async fn look_at_link(chat: &Arc<Chat>, link: &LinkEvents, state: &mut LinkState) {
    let connected = chat.client.connection_state() == State::Connected;
    let connects = chat.client.statistics().connects.load(Ordering::Acquire);
    let reconnects = if connected { connects.saturating_sub(state.connects) } else { 0 };
    if state.connected && (!connected || reconnects > 0) {
        metrics::nats_event("disconnected", reconnects.max(1));
        set_up(chat, false);
    }
    state.connected = connected;
    if reconnects > 0 {
        metrics::nats_event("connected", reconnects);
        state.connects = connects;
        reconnected(chat).await;
    }
    if chat.log.check_link().is_ok() && chat.log.must_verify() {
        verify_log(chat).await;
    }
    set_up(chat, chat.log.check_link().is_ok());
    let dropped = link.slow_consumers().saturating_sub(state.slow_consumers);
    if dropped > 0 {
        tracing::warn!(dropped, "messages dropped: this node does not keep up with its subscriptions");
        metrics::nats_event("slow_consumer", dropped);
        state.slow_consumers += dropped;
        chat.rooms.doubt_all();
    }
}

fn set_up(chat: &Chat, up: bool) {
    metrics::nats_connected(up);
    chat.nats_up.set(up);
}

/// Compares the log with what is known of it before anything is appended on a new connection. If it was restored from an
/// older copy, begins a new epoch; the next look opens the connection.
async fn verify_log(chat: &Arc<Chat>) {
    let held = chat.store.watermarks().await.inspect_err(|error| tracing::debug!(%error, "watermarks not read")).ok();
    let behind = match chat.log.verify(held.as_ref()).await {
        Ok(()) => return,
        Err(NotVerified::Unknown(reason)) => {
            tracing::warn!(reason, "the log is not compared yet: nothing is appended");
            return;
        }
        Err(NotVerified::Behind(behind)) => behind,
    };
    for Behind { partition, last, known, .. } in &behind {
        metrics::log_behind();
        tracing::error!(partition, last, known, "the log ends too low: it was restored from an older copy");
    }
    for it in &behind {
        if let Err(error) = chat.log.begin_above(it).await {
            tracing::error!(%error, partition = it.partition, "no new epoch yet; nothing is appended");
            return;
        }
    }
    match chat.log.reload(|| highest_seq(chat.store.clone())).await {
        Ok(true) => begin_anew(chat).await,
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "streams not found"),
    }
}

/// Measures the log, and compares it with Postgres also while no connection is lost.
async fn watch_log(chat: Arc<Chat>) {
    let mut tick = tokio::time::interval(LOG_CHECK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let held = chat.store.watermarks().await.ok();
        chat.log.measure(held.as_ref()).await;
    }
}

async fn reconnected(chat: &Arc<Chat>) {
    let restarted = loop {
        match chat.log.reload(|| highest_seq(chat.store.clone())).await {
            Ok(restarted) => break restarted,
            Err(error) => {
                tracing::warn!(%error, "streams not found after a reconnection");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    };
    if restarted {
        begin_anew(chat).await;
    }
    chat.rooms.doubt_all();
    chat.presence.announce_all().await;
}

/// A stream may be deleted without this node's connection being lost.
async fn follow_doubt(chat: Arc<Chat>) {
    loop {
        chat.log.doubted().await;
        // The reconnection of the connection for appending alone looks at no stream.
        while chat.log.check_link().is_err() {
            tokio::time::sleep(LINK_CHECK_INTERVAL).await;
        }
        match chat.log.reload(|| highest_seq(chat.store.clone())).await {
            Ok(true) => begin_anew(&chat).await,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "streams not found"),
        }
        // While JetStream doesn't answer, every message raises the doubt again.
        tokio::time::sleep(DOUBT_GAP).await;
    }
}

async fn begin_anew(chat: &Chat) {
    tracing::error!("the log was lost and begun again: all clients join anew");
    chat.rooms.abandon_all();
    // A node where nobody writes would not notice.
    if let Err(error) = nats::try_publish(&chat.client, subjects::LOG_RESTARTED, "".into()) {
        tracing::warn!(%error, "the new log not told of");
    }
}

async fn follow_restarts(chat: Arc<Chat>, mut told: Subscriber) {
    while told.next().await.is_some() {
        chat.log.doubt();
    }
}

async fn follow_members(chat: Arc<Chat>, mut changed: Subscriber) {
    while let Some(message) = changed.next().await {
        let conversation = std::str::from_utf8(&message.payload).ok().and_then(|text| text.parse().ok());
        if let Some(conversation) = conversation {
            chat.rooms.members_changed(conversation);
        }
    }
}

/// Has new names and types of users read where they are shown.
async fn follow_users(chat: Arc<Chat>, mut changed: Subscriber) {
    while let Some(message) = changed.next().await {
        // The error may quote it.
        let Ok(users) = serde_json::from_slice::<Vec<UserId>>(&message.payload) else {
            tracing::warn!("a change of users that can't be read");
            continue;
        };
        chat.people.forget(&users);
        chat.rooms.users_changed(&users);
    }
}

/// Tells members of somebody's conversations that they came or went.
async fn tell_presence(chat: Arc<Chat>, mut changes: mpsc::UnboundedReceiver<Change>) {
    #[derive(Serialize)]
    struct PresenceFrame<'a> {
        r#type: &'static str,
        user_id: &'a UserId,
        online: bool,
        last_seen: Option<partyline_shared::timestamp::Timestamp>,
    }
    while let Some(change) = changes.recv().await {
        let company = chat.rooms.company(&change.user_id);
        if company.is_empty() {
            continue;
        }
        let Change { user_id, online, last_seen } = &change;
        let frame = PresenceFrame { r#type: "presence", user_id, online: *online, last_seen: *last_seen };
        let frame = Frame::of(&frame, Class::Ephemeral);
        company.iter().for_each(|conn| conn.send(&frame));
    }
}

/// Another node has taken this one for dead, and its people out of the bucket.
async fn follow_tidying(chat: Arc<Chat>, mut told: Subscriber) {
    while let Some(message) = told.next().await {
        if *message.payload == *chat.node.as_bytes() {
            chat.presence.announce_all().await;
        }
    }
}
