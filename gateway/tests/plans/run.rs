//! Runs a plan, and judges what came of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use partyline_gateway::{
    app::Chat,
    authorise::Kind,
    command::{create, participants},
    history::{self, Range, overlay},
};
use partyline_shared::{
    event::Event,
    ids::{ConversationId, UserId},
    wire::{ErrorCode, Refusal},
};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, advance},
};

use crate::{
    device::{Asked, Breach, Device, Held, Outcome, Shown, breach},
    plan::{GATEWAYS, Plan, Step},
    world::{World, identity},
};

/// The longest that a command may take in the plan's time, with everything in order.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// The longest that a person may be kept out, with everything in order.
const JOINED_WITHIN: Duration = Duration::from_secs(5);
/// News of a conversation is gathered for a moment.
const GATHERED: Duration = Duration::from_millis(150);
/// After this, rooms have compared themselves with the log.
const AUDITED: Duration = Duration::from_secs(65);
/// One step of time.
const TICK: Duration = Duration::from_millis(20);

/// A message that was sent, perhaps several times.
struct Sent {
    person: usize,
    conversation: usize,
    client_id: String,
    content: String,
    metadata: Value,
    acked: Option<(u64, String)>,
}

/// Gateway, conversation, and the change of participants.
type Changing = (usize, usize, JoinHandle<()>);

pub(crate) struct Run<'a> {
    plan: &'a Plan,
    world: World,
    random: StdRng,
    ids: Vec<String>,
    devices: Vec<Device>,
    sent: Vec<Sent>,
    outcomes: Vec<Outcome>,
    changing: Vec<Changing>,
    persisting: Vec<JoinHandle<()>>,
    /// People who were removed, with the place of that event, until they are added again.
    removed: HashMap<(usize, String), u64>,
    scanned: usize,
    /// Deleted messages, with the place of the first deletion.
    deleted: HashMap<u64, u64>,
    /// People who were added or removed at any time.
    moved: Vec<(usize, String)>,
    trace: bool,
}

/// Runs a plan on a migrated database.
///
/// # Errors
/// What went wrong first.
pub(crate) async fn run(plan: &Plan, database_url: &str, trace: bool) -> Result<(), Breach> {
    let world = World::start(database_url, GATEWAYS).await;
    let people = usize::from(plan.people.clamp(1, 8));
    let conversations = usize::from(plan.conversations.clamp(1, 8));
    let salt = uuid::Uuid::new_v4().simple().to_string();
    let users: Vec<String> = (0..people).map(|person| format!("p{person}-{}", &salt[..8])).collect();
    let mut ids = Vec::new();
    for _ in 0..conversations {
        let asked = create::NewConversation {
            kind: Kind::Group,
            title: None,
            participants: users.iter().map(|user| UserId::new(user).unwrap()).collect(),
        };
        let made = create::create(&world.gateways[0].chat, &identity("service", true), asked).await.unwrap();
        ids.push(made.id.to_string());
    }
    world.gate.settle().await;
    let mut run = Run {
        plan,
        random: StdRng::seed_from_u64(plan.seed),
        devices: (0..people * 2).map(|device| Device::new(&users[device % people], ids.len())).collect(),
        world,
        ids,
        sent: Vec::new(),
        outcomes: Vec::new(),
        changing: Vec::new(),
        persisting: Vec::new(),
        removed: HashMap::new(),
        scanned: 0,
        deleted: HashMap::new(),
        moved: Vec::new(),
        trace,
    };
    run.world.gate.close();
    for (number, step) in plan.steps.iter().enumerate() {
        if run.trace {
            eprintln!("{number}: {}", serde_json::to_string(step).unwrap());
        }
        run.step(step).await?;
        run.beat().await?;
    }
    run.rest().await
}

impl Run<'_> {
    fn device(&self, device: u8) -> usize {
        usize::from(device) % self.devices.len()
    }

    fn conversation(&self, conversation: u8) -> usize {
        usize::from(conversation) % self.ids.len()
    }

    fn gateway(&self, gateway: u8) -> usize {
        usize::from(gateway) % self.world.gateways.len()
    }

    fn chat(&self, gateway: usize) -> Arc<Chat> {
        self.world.gateways[gateway].chat.clone()
    }

    fn person(&self, device: usize) -> usize {
        device % usize::from(self.plan.people)
    }

    async fn step(&mut self, step: &Step) -> Result<(), Breach> {
        match *step {
            Step::Connect { device, gateway } => self.connect(self.device(device), self.gateway(gateway)).await?,
            Step::Disconnect { device } => {
                let device = self.device(device);
                self.devices[device].disconnect();
            }
            Step::Join { device, conversation, fresh } => {
                let (device, conversation) = (self.device(device), self.conversation(conversation));
                let device = &mut self.devices[device];
                // A client that has one under way waits for it.
                if device.link.is_some() && device.held[conversation].joining.is_none() {
                    if fresh {
                        device.held[conversation].seq = None;
                    }
                    device.join(conversation, &self.ids);
                }
            }
            Step::Leave { device, conversation } => {
                let (device, conversation) = (self.device(device), self.conversation(conversation));
                let device = &mut self.devices[device];
                device.held[conversation].wanted = false;
                device.held[conversation].retry_at = None;
                let command = json!({ "type": "leave_conversation", "conversation_id": self.ids[conversation] });
                device.ask(Asked::Leave, command);
            }
            Step::Send { device, conversation, count, heavy } => {
                let (device, conversation) = (self.device(device), self.conversation(conversation));
                if self.devices[device].link.is_some() {
                    (0..count).for_each(|_| self.send(device, conversation, heavy));
                }
            }
            Step::Repeat { device, nth } => {
                let device = self.device(device);
                let person = self.person(device);
                let own: Vec<usize> = (0..self.sent.len()).filter(|it| self.sent[*it].person == person).collect();
                if let Some(sent) = own.iter().rev().nth(usize::from(nth)) {
                    self.send_again(device, *sent);
                }
            }
            Step::Edit { device, conversation, nth } => {
                let text = format!("edited {}", self.devices[self.device(device)].held.len());
                self.change(device, conversation, nth, "edit_message", &text);
            }
            Step::Delete { device, conversation, nth } => self.change(device, conversation, nth, "delete_message", ""),
            Step::MarkRead { device, conversation, short } => {
                let (device, conversation) = (self.device(device), self.conversation(conversation));
                let device = &mut self.devices[device];
                let place = device.held[conversation].messages.keys().rev().nth(usize::from(short)).copied();
                if let Some(seq) = place {
                    let id = &self.ids[conversation];
                    let command = json!({ "type": "mark_read", "conversation_id": id, "seq": seq });
                    device.ask(Asked::Mark(conversation), command);
                }
            }
            Step::Add { gateway, conversation, person } => {
                self.move_person(gateway, conversation, person, true).await?
            }
            Step::Remove { gateway, conversation, person } => {
                self.move_person(gateway, conversation, person, false).await?;
            }
            Step::Persist { count, acknowledge } => {
                self.persisting.push(self.world.persist(usize::from(count), acknowledge));
            }
            Step::Retain => self.world.nats.retain(),
            Step::DropLive { gateway, count } => {
                self.world.nats.drop_live(&self.world.gateways[self.gateway(gateway)].client_name(), count.into());
            }
            Step::DropControl { gateway, count } => {
                self.world.nats.drop_control(&self.world.gateways[self.gateway(gateway)].client_name(), count.into());
            }
            Step::CutLink { gateway } => {
                self.lose_news();
                self.world.nats.cut(&self.world.gateways[self.gateway(gateway)].client_name(), false);
            }
            Step::Restart { gateway } => self.restart(self.gateway(gateway)).await?,
            Step::Wait { millis } => self.wait(Duration::from_millis(millis.into())).await?,
            Step::Release { count, seed } => {
                let mut random = StdRng::seed_from_u64(seed.into());
                for _ in 0..count {
                    if !self.world.gate.release(&mut random) {
                        break;
                    }
                    self.beat().await?;
                }
            }
            Step::Settle => self.drain().await?,
        }
        Ok(())
    }

    /// Connects, waits until every node knows, and loads the list, as a page does that is opened.
    async fn connect(&mut self, device: usize, gateway: usize) -> Result<(), Breach> {
        self.open(device, gateway);
        self.beat().await?;
        let listed = tokio::spawn(list(self.chat(gateway), self.devices[device].user.clone(), self.ids.clone()));
        let listed = self.drive(listed).await?;
        let device = &mut self.devices[device];
        if device.link.is_none() {
            return Ok(());
        }
        for (held, listed) in device.held.iter_mut().zip(listed.unwrap_or_default()) {
            // News that came meanwhile is newer than the list.
            if held.unread.is_none() {
                held.unread = listed.map(|(unread, _)| unread);
            }
        }
        // What a page had open, it opens again.
        for conversation in 0..self.ids.len() {
            if device.held[conversation].wanted && device.held[conversation].joining.is_none() {
                device.join(conversation, &self.ids);
            }
        }
        Ok(())
    }

    fn open(&mut self, device: usize, gateway: usize) {
        let chat = self.chat(gateway);
        let device = &mut self.devices[device];
        let identity = identity(&device.user, false);
        device.connect(gateway, &chat, identity);
    }

    fn send(&mut self, device: usize, conversation: usize, heavy: bool) {
        let number = self.sent.len();
        let content = if heavy { format!("{number} {}", "\u{1F4AC}".repeat(900)) } else { format!("message {number}") };
        let metadata = if heavy { json!({ "filler": "x".repeat(3_900) }) } else { json!({}) };
        let (person, client_id) = (self.person(device), uuid::Uuid::now_v7().to_string());
        self.sent.push(Sent { person, conversation, client_id, content, metadata, acked: None });
        self.send_again(device, number);
    }

    fn send_again(&mut self, device: usize, number: usize) {
        let sent = &self.sent[number];
        let command = json!({
            "type": "send_message", "conversation_id": self.ids[sent.conversation], "client_id": sent.client_id,
            "content": sent.content, "metadata": sent.metadata,
        });
        self.devices[device].ask(Asked::Send(number), command);
    }

    fn change(&mut self, device: u8, conversation: u8, nth: u8, kind: &str, content: &str) {
        let (device, conversation) = (self.device(device), self.conversation(conversation));
        let person = self.person(device);
        let own = self.sent.iter().filter(|it| it.person == person && it.conversation == conversation);
        let places: Vec<u64> = own.filter_map(|it| it.acked.as_ref().map(|(seq, _)| *seq)).collect();
        let Some(seq) = places.iter().rev().nth(usize::from(nth)) else { return };
        let mut command = json!({ "type": kind, "conversation_id": self.ids[conversation], "seq": seq });
        if !content.is_empty() {
            command["content"] = json!(content);
        }
        self.devices[device].ask(Asked::Change, command);
    }

    /// Adds or removes somebody, as a service does it by REST.
    async fn move_person(&mut self, gateway: u8, conversation: u8, person: u8, adds: bool) -> Result<(), Breach> {
        let (gateway, conversation) = (self.gateway(gateway), self.conversation(conversation));
        // One after the other in a conversation: the order of the rows is that of the events.
        if self.changing.iter().any(|(_, of, task)| *of == conversation && !task.is_finished()) {
            self.drain().await?;
        }
        let user = self.devices[usize::from(person) % usize::from(self.plan.people)].user.clone();
        self.moved.push((conversation, user.clone()));
        if adds {
            self.removed.remove(&(conversation, user.clone()));
        }
        let (chat, id) = (self.chat(gateway), self.ids[conversation].parse().unwrap());
        let task = tokio::spawn(async move {
            let (service, user) = (identity("service", true), UserId::new(&user).unwrap());
            if adds {
                let _ = participants::add(&chat, &service, id, &user).await;
            } else {
                let _ = participants::remove(&chat, &service, id, &user).await;
            }
        });
        self.changing.push((gateway, conversation, task));
        Ok(())
    }

    /// News of conversations that nobody here has joined is not kept: badges are right again with the next one.
    fn lose_news(&mut self) {
        self.devices.iter_mut().flat_map(|device| &mut device.held).for_each(|held| held.unread = None);
    }

    async fn restart(&mut self, gateway: usize) -> Result<(), Breach> {
        self.lose_news();
        let there = |it: &&mut Device| it.link.as_ref().is_some_and(|link| link.gateway == gateway);
        let lost: Vec<usize> = (0..self.devices.len())
            .filter(|it| self.devices[*it].link.as_ref().is_some_and(|link| link.gateway == gateway))
            .collect();
        self.devices.iter_mut().filter(there).for_each(Device::lose);
        self.changing.iter().filter(|(of, ..)| *of == gateway).for_each(|(.., task)| task.abort());
        let restarted = self.world.kill(gateway);
        let restarted = self.drive(restarted).await?;
        self.world.gateways[gateway] = restarted;
        let other = (gateway + 1) % self.world.gateways.len();
        for device in lost {
            self.connect(device, other).await?;
        }
        Ok(())
    }

    /// Lets a task end, whatever must arrive for that.
    async fn drive<T>(&mut self, task: JoinHandle<T>) -> Result<T, Breach> {
        let began = Instant::now();
        loop {
            self.beat().await?;
            if task.is_finished() {
                return task.await.map_err(|error| breach("panic", error.to_string()));
            }
            if !self.world.gate.release(&mut self.random) {
                if began.elapsed() > ANSWERED_WITHIN {
                    return Err(breach("no end", "something waits for ever"));
                }
                advance(TICK).await;
            }
        }
    }

    /// Everything happens that needs nothing more to arrive; clients read and react.
    async fn beat(&mut self) -> Result<(), Breach> {
        loop {
            self.world.gate.settle().await;
            if let Some(panic) = crate::PANICS.lock().pop() {
                return Err(breach("panic", panic));
            }
            self.scan()?;
            let mut any = false;
            for device in 0..self.devices.len() {
                any |= self.devices[device].read(&self.ids, &mut self.outcomes)?;
                any |= self.devices[device].retry(&self.ids);
                self.check_heard(device)?;
            }
            self.take_outcomes()?;
            if !any {
                return Ok(());
            }
        }
    }

    async fn wait(&mut self, time: Duration) -> Result<(), Breach> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            advance(TICK.min(until - Instant::now())).await;
            self.beat().await?;
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.devices.iter().any(|device| !device.asked.is_empty())
            || self.changing.iter().any(|(.., task)| !task.is_finished())
            || self.persisting.iter().any(|task| !task.is_finished())
            || self.is_out()
    }

    /// Whether a client waits before it tries to join again.
    fn is_out(&self) -> bool {
        self.devices.iter().any(|device| device.held.iter().any(|held| held.retry_at.is_some()))
    }

    /// Everything arrives, and every command is answered.
    async fn drain(&mut self) -> Result<(), Breach> {
        let mut began = Instant::now();
        loop {
            self.beat().await?;
            if self.world.gate.release(&mut self.random) {
                continue;
            }
            if self.is_busy() {
                if began.elapsed() > ANSWERED_WITHIN {
                    if self.is_out() {
                        return Err(breach("kept out", self.who_is_out()));
                    }
                    let waiting: Vec<_> = self.devices.iter().map(|device| &device.asked).collect();
                    return Err(breach("no answer", format!("{waiting:?}")));
                }
                advance(TICK).await;
                continue;
            }
            // News is gathered, and may ask for something again.
            let quiet = Instant::now();
            began = began.max(quiet - ANSWERED_WITHIN / 2);
            while quiet.elapsed() < GATHERED {
                advance(TICK).await;
                self.beat().await?;
                if self.world.gate.release(&mut self.random) {
                    break;
                }
            }
            if quiet.elapsed() >= GATHERED && !self.is_busy() {
                return Ok(());
            }
        }
    }

    fn who_is_out(&self) -> String {
        let mut out = Vec::new();
        for device in &self.devices {
            for (conversation, held) in device.held.iter().enumerate().filter(|(_, held)| held.retry_at.is_some()) {
                let (user, seq, refusals) = (&device.user, held.seq, held.refusals);
                out.push(format!("{user} in conversation {conversation}, holds {seq:?}, {refusals} refusals"));
            }
        }
        out.join("; ")
    }

    /// Looks at what is new in the log.
    fn scan(&mut self) -> Result<(), Breach> {
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

    fn check_heard(&mut self, device: usize) -> Result<(), Breach> {
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

    fn take_outcomes(&mut self) -> Result<(), Breach> {
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

/// A person's list: unread messages, and the last message.
type Listed = Option<(u64, Option<(u64, String)>)>;

async fn list(chat: Arc<Chat>, user: String, ids: Vec<String>) -> Option<Vec<Listed>> {
    let user = UserId::new(&user).ok()?;
    // As the handler of the list does it.
    let page = overlay::list(&chat.store, &chat.log, &user, None, 50).await.ok()?;
    let find = |id: &String| {
        let listed = page.conversations.iter().find(|it| it.id.to_string() == **id)?;
        let last = listed.last_message.as_ref().map(|it| (it.seq, it.message.content.clone()));
        Some((u64::from(listed.unread), last))
    };
    Some(ids.iter().map(find).collect())
}

/// What the log comes to.
#[derive(Debug, Default)]
struct Fold {
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

impl Run<'_> {
    fn fold(&self, conversation: usize) -> Fold {
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
                Event::ParticipantAdded(_) | Event::ParticipantRemoved(_) => {}
            }
        }
        fold
    }

    /// Everything arrives, nothing is lost any more, and time passes: then everybody must have the same.
    async fn rest(&mut self) -> Result<(), Breach> {
        if self.trace {
            eprintln!("rest");
        }
        self.world.nats.heal();
        self.drain().await?;
        self.world.gate.open();
        let until = Instant::now() + AUDITED;
        while Instant::now() < until {
            advance(Duration::from_millis(250)).await;
            self.beat().await?;
        }
        self.drain().await?;
        self.check_log()?;
        let folds: Vec<Fold> = (0..self.ids.len()).map(|it| self.fold(it)).collect();
        self.check_views(&folds, "at rest").await?;
        // What follows is worse than a wrong number.
        let badges = self.check_badges(&folds).await;
        self.move_everybody().await?;
        self.check_views(&folds, "after moving").await?;
        self.check_history(&folds).await?;
        self.check_strangers().await?;
        badges
    }

    fn check_log(&self) -> Result<(), Breach> {
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
                return Err(breach("stored twice", format!("{} stands at {places:?}", short(&sent.content))));
            }
            let Some((seq, message_id)) = &sent.acked else { continue };
            if places != [*seq] {
                return Err(breach("ack lost", format!("{} is not at {seq}: {places:?}", short(&sent.content))));
            }
            let found = folds[sent.conversation].messages.get(seq).map(|(.., id)| id.clone());
            if found.as_ref() != Some(message_id) {
                return Err(breach("wrong ack", format!("{found:?} stands at {seq}, not {message_id}")));
            }
        }
        Ok(())
    }

    async fn takes_part(&self, conversation: usize, user: &str) -> bool {
        let chat = self.chat(0);
        // As Postgres has it, past every cache.
        let page = chat.store.conversations(&UserId::new(user).unwrap(), None, 50).await.unwrap();
        page.conversations.iter().any(|it| it.id.to_string() == self.ids[conversation])
    }

    async fn check_views(&self, folds: &[Fold], when: &str) -> Result<(), Breach> {
        for device in &self.devices {
            for (conversation, held) in device.held.iter().enumerate() {
                if device.link.is_none() || !held.wanted || !self.takes_part(conversation, &device.user).await {
                    continue;
                }
                self.check_view(&folds[conversation], held, conversation, &device.user, when)?;
            }
        }
        Ok(())
    }

    fn check_view(&self, fold: &Fold, held: &Held, conversation: usize, user: &str, when: &str) -> Result<(), Breach> {
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
            let moved = self.moved.contains(&(conversation, reader.clone()));
            let shown = held.markers.get(reader).copied().unwrap_or(0);
            if !moved && shown != *marker {
                return Err(breach("marker differs", format!("{what}: {reader} has read {marker}, shown {shown}")));
            }
        }
        Ok(())
    }

    /// What the list says, and what those were told who have not joined.
    async fn check_badges(&mut self, folds: &[Fold]) -> Result<(), Breach> {
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
                    let moved = self.moved.contains(&(conversation, user.clone()));
                    if !moved && *unread != fold.unread(&user) {
                        let expected = fold.unread(&user);
                        return Err(breach("wrong list badge", format!("{what}: {unread}, not {expected}")));
                    }
                }
            }
        }
        for device in &self.devices {
            let Some(link) = &device.link else { continue };
            for (conversation, held) in device.held.iter().enumerate() {
                let moved = self.moved.contains(&(conversation, device.user.clone()));
                let Some(unread) = held.unread.filter(|_| !moved && !link.conn.has_joined(self.id(conversation)))
                else {
                    continue;
                };
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

    fn id(&self, conversation: usize) -> ConversationId {
        self.ids[conversation].parse().unwrap()
    }

    /// Every device reconnects to the next gateway, and joins there with what it holds.
    async fn move_everybody(&mut self) -> Result<(), Breach> {
        let began = Instant::now();
        for device in 0..self.devices.len() {
            let Some(gateway) = self.devices[device].link.as_ref().map(|link| link.gateway) else { continue };
            let next = (gateway + 1) % self.world.gateways.len();
            self.connect(device, next).await?;
        }
        while began.elapsed() < JOINED_WITHIN {
            self.beat().await?;
            let out = |held: &Held| held.wanted && !held.joined;
            if !self.devices.iter().any(|device| device.link.is_some() && device.held.iter().any(out)) {
                break;
            }
            advance(TICK).await;
        }
        Ok(())
    }

    /// Somebody who holds nothing joins on every gateway; and what REST gives.
    async fn check_history(&mut self, folds: &[Fold]) -> Result<(), Breach> {
        for gateway in 0..self.world.gateways.len() {
            for (conversation, fold) in folds.iter().enumerate() {
                let people = 0..usize::from(self.plan.people);
                let mut found = None;
                for person in people {
                    if self.takes_part(conversation, &self.devices[person].user).await {
                        found = Some(self.devices[person].user.clone());
                        break;
                    }
                }
                let Some(user) = found else { continue };
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
                self.check_view(fold, &fresh.held[conversation], conversation, &user, "fresh")?;
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
    async fn check_strangers(&mut self) -> Result<(), Breach> {
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

fn short(text: &str) -> String {
    text.chars().take(20).collect()
}

fn differences(shown: &BTreeMap<u64, Shown>, expected: &BTreeMap<u64, Shown>) -> String {
    let places: std::collections::BTreeSet<_> = shown.keys().chain(expected.keys()).collect();
    let differing: Vec<String> = places
        .into_iter()
        .filter(|seq| shown.get(seq) != expected.get(seq))
        .take(5)
        .map(|seq| {
            let text = |it: Option<&Shown>| it.map_or("nothing".to_owned(), |it| format!("{:?}", short(&it.content)));
            format!("{seq}: {}, not {}", text(shown.get(seq)), text(expected.get(seq)))
        })
        .collect();
    format!("{} shown, {} expected; {}", shown.len(), expected.len(), differing.join("; "))
}
