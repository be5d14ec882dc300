//! What must hold while a plan runs, and once everything has arrived: the log is folded into the state that it describes,
//! and every list, page and view must show that state.

use std::collections::{BTreeMap, HashMap, HashSet};

use partyline_gateway::history::{self, Range};
use partyline_shared::{
    event::Event,
    ids::{ConversationId, UserId},
    wire::{ErrorCode, Refusal},
};
use tokio::time::{Instant, advance};

use crate::{
    device::{Breach, Device, Held, Outcome, Shown, breach},
    executor::{Executor, JOINED_WITHIN, TICK, list},
    world::identity,
};

/// What the log comes to.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    messages: BTreeMap<u64, (Shown, String, String)>,
    markers: HashMap<String, u64>,
    head: u64,
}

impl Fold {
    fn unread(&self, user: &str) -> u64 {
        let marker = self.markers.get(user).copied().unwrap_or(0);
        let unread = self.messages.range(marker + 1..).filter(|(_, (it, sender, _))| !it.deleted && sender != user);
        unread.count() as u64
    }

    fn shown(&self) -> BTreeMap<u64, Shown> {
        self.messages.iter().map(|(seq, (it, ..))| (*seq, it.clone())).collect()
    }
}

/// While the plan runs.
impl Executor<'_> {
    /// Looks at what is new in the log.
    pub(crate) fn scan(&mut self) -> Result<(), Breach> {
        let log = self.world.nats.log();
        for stored in &log[self.scanned..] {
            let event = Event::from_json(&stored.payload).map_err(|error| breach("bad event", error.to_string()))?;
            let conversation = self.ids.iter().position(|id| *id == event.conversation_id().to_string());
            let Some(conversation) = conversation else { continue };
            match event {
                Event::ParticipantRemoved(it) => {
                    self.removed.insert((conversation, it.user_id.to_string()), stored.seq);
                }
                Event::ParticipantAdded(it) => {
                    self.removed.remove(&(conversation, it.participant.user_id.to_string()));
                }
                Event::MessageDeleted(it) => {
                    if let Some(first) = self.deleted.insert(it.message_seq, stored.seq) {
                        let seq = it.message_seq;
                        return Err(breach("deleted twice", format!("{seq} at {first} and {}", stored.seq)));
                    }
                }
                _ => {}
            }
        }
        self.scanned = log.len();
        Ok(())
    }

    pub(crate) fn check_heard(&mut self, device: usize) -> Result<(), Breach> {
        let device = &mut self.devices[device];
        for (message, seq) in device.edits.drain(..) {
            if let Some(deleted) = self.deleted.get(&message).filter(|deleted| **deleted < seq) {
                let what = format!("{message} was deleted at {deleted}, edited at {seq}");
                return Err(breach("edit after deletion", what));
            }
        }
        for (conversation, seq) in device.heard.drain(..) {
            if let Some(removed) = self.removed.get(&(conversation, device.user.clone()))
                && seq > *removed
            {
                let user = &device.user;
                return Err(breach("heard after removal", format!("{user} was removed at {removed}, heard {seq}")));
            }
        }
        Ok(())
    }

    pub(crate) fn take_outcomes(&mut self) -> Result<(), Breach> {
        for outcome in self.outcomes.drain(..) {
            let Outcome::Sent(number, ack) = outcome else { continue };
            let sent = &mut self.sent[number];
            let told = (ack["seq"].as_u64().unwrap_or(0), ack["message_id"].as_str().unwrap_or_default().to_owned());
            match &sent.acked {
                Some(before) if *before != told => {
                    return Err(breach(
                        "two acks",
                        format!("{} was acknowledged as {before:?} and {told:?}", sent.content),
                    ));
                }
                _ => sent.acked = Some(told),
            }
        }
        Ok(())
    }
}

/// At rest.
impl Executor<'_> {
    pub(crate) fn fold(&self, conversation: usize) -> Fold {
        let mut fold = Fold::default();
        for stored in self.world.nats.log() {
            let Ok(event) = Event::from_json(&stored.payload) else { continue };
            if event.conversation_id().to_string() != self.ids[conversation] {
                continue;
            }
            fold.head = stored.seq;
            match event {
                Event::NewMessage(it) => {
                    // A message marks everything up to itself as read by its sender.
                    fold.markers.insert(it.sender_id.to_string(), stored.seq);
                    let shown = Shown { client_id: it.client_id.0.to_string(), content: it.content, deleted: false };
                    fold.messages.insert(stored.seq, (shown, it.sender_id.to_string(), it.message_id.0.to_string()));
                }
                Event::MessageEdited(it) => {
                    if let Some((shown, ..)) = fold.messages.get_mut(&it.message_seq).filter(|it| !it.0.deleted) {
                        shown.content = it.content;
                    }
                }
                Event::MessageDeleted(it) => {
                    if let Some((shown, ..)) = fold.messages.get_mut(&it.message_seq) {
                        shown.deleted = true;
                        shown.content.clear();
                    }
                }
                Event::Read(it) => {
                    let marker = fold.markers.entry(it.user_id.to_string()).or_default();
                    *marker = it.last_read_seq.max(*marker);
                }
                Event::ParticipantAdded(it) => {
                    // An added participant has read everything before the event.
                    let marker = fold.markers.entry(it.participant.user_id.to_string()).or_default();
                    *marker = stored.seq.max(*marker);
                }
                Event::ParticipantRemoved(_) => {}
            }
        }
        fold
    }

    pub(crate) fn check_log(&self) -> Result<(), Breach> {
        let mut stored: HashMap<(String, String), Vec<u64>> = HashMap::new();
        let folds: Vec<Fold> = (0..self.ids.len()).map(|it| self.fold(it)).collect();
        for fold in &folds {
            for (seq, (shown, sender, _)) in &fold.messages {
                stored.entry((sender.clone(), shown.client_id.clone())).or_default().push(*seq);
            }
        }
        for sent in &self.sent {
            let user = self.devices[sent.person].user.clone();
            let places = stored.get(&(user, sent.client_id.clone())).cloned().unwrap_or_default();
            if places.len() > 1 {
                return Err(breach("stored twice", format!("{} stands at {places:?}", shortened(&sent.content))));
            }
            let Some((seq, message_id)) = &sent.acked else { continue };
            if places != [*seq] {
                return Err(breach("ack lost", format!("{} is not at {seq}: {places:?}", shortened(&sent.content))));
            }
            let found = folds[sent.conversation].messages.get(seq).map(|(.., id)| id.clone());
            if found.as_ref() != Some(message_id) {
                return Err(breach("wrong ack", format!("{found:?} stands at {seq}, not {message_id}")));
            }
        }
        Ok(())
    }

    pub(crate) async fn takes_part(&self, conversation: usize, user: &str) -> bool {
        let chat = self.chat(0);
        // As Postgres has it, past every cache.
        let page = chat.store.conversations(&UserId::new(user).unwrap(), None, 50).await.unwrap();
        page.conversations.iter().any(|it| it.id.to_string() == self.ids[conversation])
    }

    /// Who takes part in each conversation, as Postgres has it.
    pub(crate) async fn participants(&self) -> Vec<HashSet<String>> {
        let mut participants = vec![HashSet::new(); self.ids.len()];
        for (conversation, users) in participants.iter_mut().enumerate() {
            for person in 0..usize::from(self.plan.people) {
                let user = &self.devices[person].user;
                if self.takes_part(conversation, user).await {
                    users.insert(user.clone());
                }
            }
        }
        participants
    }

    pub(crate) async fn check_views(&self, folds: &[Fold], when: &str) -> Result<(), Breach> {
        let participants = self.participants().await;
        for device in &self.devices {
            for (conversation, held) in device.held.iter().enumerate() {
                let participants = &participants[conversation];
                if device.link.is_none() || !held.wanted || !participants.contains(&device.user) {
                    continue;
                }
                self.check_view(&folds[conversation], participants, held, conversation, &device.user, when)?;
            }
        }
        Ok(())
    }

    fn check_view(
        &self,
        fold: &Fold,
        participants: &HashSet<String>,
        held: &Held,
        conversation: usize,
        user: &str,
        when: &str,
    ) -> Result<(), Breach> {
        let what = format!("{user} in conversation {conversation} {when}");
        if !held.joined {
            return Err(breach("kept out", format!("{what} holds {:?}, {} refusals", held.seq, held.refusals)));
        }
        let head = held.seq.unwrap_or(0);
        if head < fold.head {
            return Err(breach("left behind", format!("{what} holds {head} of {}", fold.head)));
        }
        let mut expected = fold.shown();
        if held.has_older {
            let first = held.messages.keys().next().copied().unwrap_or(u64::MAX);
            expected = expected.split_off(&first);
            // A page ends at 50 messages, or at 256 KiB.
            let heavy = expected.values().filter(|it| it.content.len() > 3_000).count();
            if when == "fresh" && heavy < 30 && expected.len() < 50.min(fold.messages.len()) {
                return Err(breach("short page", format!("{what} has {} of {}", expected.len(), fold.messages.len())));
            }
        }
        if held.messages != expected {
            let differs = differences(&held.messages, &expected);
            return Err(breach("view differs", format!("{what}: {differs}")));
        }
        let markers: BTreeMap<_, _> = fold.markers.iter().collect();
        for (reader, marker) in markers {
            let shown = held.markers.get(reader).copied().unwrap_or(0);
            if participants.contains(reader) && shown != *marker {
                return Err(breach("marker differs", format!("{what}: {reader} has read {marker}, shown {shown}")));
            }
        }
        Ok(())
    }

    /// What the list says, and what those were told who have not joined.
    pub(crate) async fn check_badges(&mut self, folds: &[Fold]) -> Result<(), Breach> {
        for gateway in 0..self.world.gateways.len() {
            for person in 0..usize::from(self.plan.people) {
                let user = self.devices[person].user.clone();
                let listed = tokio::spawn(list(self.chat(gateway), user.clone(), self.ids.clone()));
                let listed = self.drive(listed).await?;
                let listed = listed.ok_or_else(|| breach("no list", user.clone()))?;
                for (conversation, (listed, fold)) in listed.iter().zip(folds).enumerate() {
                    if !self.takes_part(conversation, &user).await {
                        continue;
                    }
                    let what = format!("{user} in conversation {conversation} by gateway {gateway}");
                    let Some((unread, last)) = listed else { return Err(breach("not listed", what)) };
                    let expected = fold.messages.iter().next_back().map(|(seq, (it, ..))| (*seq, it.content.clone()));
                    if *last != expected {
                        return Err(breach("wrong preview", format!("{what}: {last:?}, not {expected:?}")));
                    }
                    if *unread != fold.unread(&user) {
                        let expected = fold.unread(&user);
                        return Err(breach("wrong list badge", format!("{what}: {unread}, not {expected}")));
                    }
                }
            }
        }
        for device in &self.devices {
            let Some(link) = &device.link else { continue };
            for (conversation, held) in device.held.iter().enumerate() {
                let has_joined = link.conn.has_joined(self.id(conversation));
                let Some(unread) = held.unread.filter(|_| !has_joined) else { continue };
                if !self.takes_part(conversation, &device.user).await {
                    continue;
                }
                let expected = folds[conversation].unread(&device.user);
                // What was read in a room that was left since is known to the client itself.
                if unread != expected && held.seq.is_none() {
                    let what = format!("{} in conversation {conversation}", device.user);
                    return Err(breach("wrong badge", format!("{what}: {unread}, not {expected}")));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn id(&self, conversation: usize) -> ConversationId {
        self.ids[conversation].parse().unwrap()
    }

    /// Somebody who holds nothing joins on every gateway; and what REST gives.
    pub(crate) async fn check_history(&mut self, folds: &[Fold]) -> Result<(), Breach> {
        let participants = self.participants().await;
        for gateway in 0..self.world.gateways.len() {
            for (conversation, fold) in folds.iter().enumerate() {
                let participants = &participants[conversation];
                let Some(user) = participants.iter().min().cloned() else { continue };
                let mut fresh = Device::new(&user, self.ids.len());
                fresh.connect(gateway, &self.chat(gateway), identity(&user, false));
                fresh.join(conversation, &self.ids);
                self.devices.push(fresh);
                let began = Instant::now();
                loop {
                    self.beat().await?;
                    let held = &self.devices[self.devices.len() - 1].held[conversation];
                    if held.joined || began.elapsed() > JOINED_WITHIN {
                        break;
                    }
                    advance(TICK).await;
                }
                let mut fresh = self.devices.pop().unwrap();
                self.check_view(fold, participants, &fresh.held[conversation], conversation, &user, "fresh")?;
                fresh.disconnect();
                let (chat, id) = (self.chat(gateway), self.id(conversation));
                let page = history::page(&chat.store, &chat.log, id, Range::Last, 200).await;
                let page = page.map_err(|refusal| breach("no history", refusal.to_string()))?;
                let shown: BTreeMap<u64, Shown> = page
                    .messages
                    .iter()
                    .map(|it| {
                        let client_id = it.message.client_id.0.to_string();
                        let deleted = it.deleted_at.is_some();
                        (it.seq, Shown { client_id, content: it.message.content.clone(), deleted })
                    })
                    .collect();
                let mut expected = fold.shown();
                if expected.len() > 200 {
                    expected = shown.keys().next().map_or(expected.clone(), |first| expected.split_off(first));
                }
                if shown != expected {
                    let differs = differences(&shown, &expected);
                    return Err(breach("history differs", format!("conversation {conversation}: {differs}")));
                }
            }
        }
        Ok(())
    }

    /// Who takes no part gets in nowhere.
    pub(crate) async fn check_strangers(&mut self) -> Result<(), Breach> {
        for gateway in 0..self.world.gateways.len() {
            for person in 0..usize::from(self.plan.people) {
                for conversation in 0..self.ids.len() {
                    let user = self.devices[person].user.clone();
                    if self.takes_part(conversation, &user).await {
                        continue;
                    }
                    let chat = self.chat(gateway);
                    let membership = chat.members.get(self.id(conversation)).await;
                    let membership = membership.map_err(|it: Refusal| breach("no membership", it.to_string()))?;
                    let taken = partyline_gateway::authorise::take_part(&identity(&user, false), &membership);
                    if !matches!(taken, Err(Refusal { code: ErrorCode::Forbidden, .. })) {
                        let what = format!("{user} in conversation {conversation} by gateway {gateway}");
                        return Err(breach("removed, yet let in", what));
                    }
                }
            }
        }
        Ok(())
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(20).collect()
}

fn differences(shown: &BTreeMap<u64, Shown>, expected: &BTreeMap<u64, Shown>) -> String {
    let places: std::collections::BTreeSet<_> = shown.keys().chain(expected.keys()).collect();
    let differing: Vec<String> = places
        .into_iter()
        .filter(|seq| shown.get(seq) != expected.get(seq))
        .take(5)
        .map(|seq| {
            let text =
                |it: Option<&Shown>| it.map_or("nothing".to_owned(), |it| format!("{:?}", shortened(&it.content)));
            format!("{seq}: {}, not {}", text(shown.get(seq)), text(expected.get(seq)))
        })
        .collect();
    format!("{} shown, {} expected; {}", shown.len(), expected.len(), differing.join("; "))
}
