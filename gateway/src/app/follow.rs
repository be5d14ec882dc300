//! What a node hears: of its own connection to NATS, from other nodes, from presence.

use std::{sync::Arc, time::Duration};

use async_nats::Subscriber;
use futures_util::StreamExt;
use partyline_shared::{ids::UserId, nats::Link, subjects};
use serde::Serialize;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Chat, highest_seq};
use crate::{
    encode::{Class, Frame},
    metrics,
    presence::Change,
    tasks,
};

/// Between two looks at the streams for reasons other than a reconnection.
const DOUBT_GAP: Duration = Duration::from_secs(1);

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
    heard: broadcast::Receiver<Link>,
    told: Told,
    to_tell: mpsc::UnboundedReceiver<Change>,
    end: &CancellationToken,
) {
    tasks::until(
        end.clone(),
        [
            tokio::spawn(follow_link(chat.clone(), heard)),
            tokio::spawn(follow_doubt(chat.clone())),
            tokio::spawn(follow_restarts(chat.clone(), told.log_restarted)),
            tokio::spawn(follow_members(chat.clone(), told.members_changed)),
            tokio::spawn(follow_users(chat.clone(), told.users_changed)),
            tokio::spawn(follow_tidying(chat.clone(), told.presence_tidied)),
            tokio::spawn(tell_presence(chat.clone(), to_tell)),
        ],
    );
}

/// Reacts to what happens to the NATS connection: whatever may have been missed is looked up.
async fn follow_link(chat: Arc<Chat>, mut heard: broadcast::Receiver<Link>) {
    loop {
        let link = match heard.recv().await {
            Ok(link) => link,
            Err(broadcast::error::RecvError::Lagged(_)) => Link::Connected,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        match link {
            Link::Disconnected => {
                metrics::nats_event("disconnected");
                metrics::nats_connected(false);
                chat.nats_up.set(false);
            }
            Link::SlowConsumer => {
                metrics::nats_event("slow_consumer");
                chat.rooms.doubt_all();
            }
            Link::Connected => {
                metrics::nats_event("connected");
                metrics::nats_connected(true);
                reconnected(&chat).await;
                chat.nats_up.set(true);
            }
        }
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
    if let Err(error) = chat.client.publish(subjects::LOG_RESTARTED, "".into()).await {
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
