//! Runs a plan: does its steps, lets traffic arrive, and brings everything to rest at the end. What must hold meanwhile and
//! at rest is in [`crate::oracle`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use partyline_gateway::{
    app::Chat,
    authorise::Kind,
    command::{create, participants},
    history::overlay,
};
use partyline_shared::ids::UserId;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, advance},
};

use crate::{
    device::{Asked, Breach, Device, Held, Outcome, breach},
    oracle::Fold,
    plan::{GATEWAYS, Plan, Step},
    world::{World, identity},
};

/// The longest that a command may take in the plan's time, with everything in order.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// The longest that a person may be kept out, with everything in order.
pub(crate) const JOINED_WITHIN: Duration = Duration::from_secs(5);
/// News of a conversation is gathered for a moment.
const GATHERED: Duration = Duration::from_millis(150);
/// After this, rooms have compared themselves with the log.
const AUDITED: Duration = Duration::from_secs(65);
/// One step of time.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// A message that was sent, perhaps several times.
pub(crate) struct Sent {
    pub(crate) person: usize,
    pub(crate) conversation: usize,
    pub(crate) client_id: String,
    pub(crate) content: String,
    pub(crate) metadata: Value,
    pub(crate) acked: Option<(u64, String)>,
}

/// Gateway, conversation, and the change of participants.
type Changing = (usize, usize, JoinHandle<()>);

pub(crate) struct Executor<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) world: World,
    pub(crate) random: StdRng,
    pub(crate) ids: Vec<String>,
    pub(crate) devices: Vec<Device>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) changing: Vec<Changing>,
    pub(crate) persisting: Vec<JoinHandle<()>>,
    /// People who were removed, with the place of that event, until they are added again.
    pub(crate) removed: HashMap<(usize, String), u64>,
    pub(crate) scanned: usize,
    /// Deleted messages, with the place of the first deletion.
    pub(crate) deleted: HashMap<u64, u64>,
    pub(crate) trace: bool,
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
    let mut executor = Executor {
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
        trace,
    };
    executor.world.gate.close();
    for (number, step) in plan.steps.iter().enumerate() {
        if executor.trace {
            eprintln!("{number}: {}", serde_json::to_string(step).unwrap());
        }
        executor.step(step).await?;
        executor.beat().await?;
    }
    executor.rest().await
}

impl Executor<'_> {
    fn device(&self, device: u8) -> usize {
        usize::from(device) % self.devices.len()
    }

    fn conversation(&self, conversation: u8) -> usize {
        usize::from(conversation) % self.ids.len()
    }

    fn gateway(&self, gateway: u8) -> usize {
        usize::from(gateway) % self.world.gateways.len()
    }

    pub(crate) fn chat(&self, gateway: usize) -> Arc<Chat> {
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
            Step::DropAnswers { gateway, count } => {
                let name = self.world.gateways[self.gateway(gateway)].client_name();
                self.world.nats.drop_answers(&name, count.into());
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
    pub(crate) async fn drive<T>(&mut self, task: JoinHandle<T>) -> Result<T, Breach> {
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
    pub(crate) async fn beat(&mut self) -> Result<(), Breach> {
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
        self.join_where_refused().await?;
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

    /// Every device tries again to join where it was refused for good; a participant must get in by now.
    async fn join_where_refused(&mut self) -> Result<(), Breach> {
        let participants = self.participants().await;
        for (device, conversation) in
            (0..self.devices.len()).flat_map(|device| (0..self.ids.len()).map(move |it| (device, it)))
        {
            let device = &mut self.devices[device];
            if device.held[conversation].is_refused && participants[conversation].contains(&device.user) {
                device.join(conversation, &self.ids);
                if device.link.is_some() {
                    device.held[conversation].must_join = true;
                }
            }
        }
        self.drain().await?;
        for device in &self.devices {
            for (conversation, held) in device.held.iter().enumerate().filter(|(_, held)| held.must_join) {
                if !held.joined {
                    return Err(breach("kept out", format!("{} in conversation {conversation}", device.user)));
                }
            }
        }
        Ok(())
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
}

/// A person's list: unread messages, and the last message.
pub(crate) type Listed = Option<(u64, Option<(u64, String)>)>;

pub(crate) async fn list(chat: Arc<Chat>, user: String, ids: Vec<String>) -> Option<Vec<Listed>> {
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
