//! A NATS server in memory, as far as gateways use one: core messages, streams with deduplication, republication, direct
//! gets, expected sequences, and key-value buckets. It speaks the real protocol, so the gateways and their client library
//! run as they are. What it sends passes the plan's [`Gate`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, tcp::OwnedReadHalf},
    sync::mpsc,
    task::AbortHandle,
    time::Instant,
};

use crate::{
    gate::{Lane, SharedGate},
    postgres::write,
};

/// Retention cuts nothing that was written more recently.
const CUT_AFTER: Duration = Duration::from_secs(1);
const TIME: &str = "2026-01-01T00:00:00Z";
const INFO: &str = concat!(
    "INFO {\"server_id\":\"plans\",\"server_name\":\"plans\",\"version\":\"2.12.0\",\"proto\":1,\"headers\":true,",
    "\"max_payload\":1048576,\"jetstream\":true}\r\n"
);

/// A stored message.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) seq: u64,
    pub(crate) subject: String,
    headers: Vec<(String, String)>,
    pub(crate) payload: Bytes,
}

struct Consumer {
    config: Value,
    ack_floor: u64,
    /// Pushed up to here, if it pushes.
    pushed: u64,
    count: u64,
}

struct Stream {
    config: Value,
    subjects: Vec<String>,
    per_subject: usize,
    window: Duration,
    messages: BTreeMap<u64, Arc<Stored>>,
    first: u64,
    last: u64,
    names: HashMap<String, (Instant, u64)>,
    consumers: BTreeMap<String, Consumer>,
}

struct Connection {
    out: mpsc::UnboundedSender<Bytes>,
    name: String,
    subscriptions: Vec<(String, String)>,
    tasks: Vec<AbortHandle>,
    drop_live: u32,
    drop_control: u32,
    drop_answers: u32,
}

#[derive(Default)]
struct State {
    connections: BTreeMap<u64, Connection>,
    next: u64,
    streams: BTreeMap<String, Stream>,
    /// Every event that the log ever had, for the oracle: retention takes nothing from it.
    log: Vec<Arc<Stored>>,
    /// When the persister acknowledged what.
    acknowledged: Vec<(Instant, u64)>,
    /// Names of clients whose connections are refused: their gateways are dead.
    dead: Vec<String>,
}

/// The server.
pub(crate) struct Nats {
    state: Mutex<State>,
    gate: SharedGate,
    pub(crate) port: u16,
}

struct Published {
    subject: String,
    reply: Option<String>,
    headers: Vec<(String, String)>,
    payload: Bytes,
}

impl Published {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Nats {
    /// Starts one.
    pub(crate) async fn start(gate: SharedGate) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let nats = Arc::new(Self { state: Mutex::default(), gate, port });
        tokio::spawn(accept(nats.clone(), listener));
        nats
    }

    /// Every event of the log, in order.
    pub(crate) fn log(&self) -> Vec<Arc<Stored>> {
        self.state.lock().log.clone()
    }

    /// The log's first and last sequence numbers, and the persister's floor.
    pub(crate) fn ends(&self) -> (u64, u64, u64) {
        let state = self.state.lock();
        let stream = &state.streams["CHAT_LOG_0"];
        (stream.first, stream.last, stream.consumers["persister"].ack_floor)
    }

    /// The persister acknowledged everything up to `seq`.
    pub(crate) fn acknowledge(&self, seq: u64) {
        let mut state = self.state.lock();
        let consumer = state.streams.get_mut("CHAT_LOG_0").unwrap().consumers.get_mut("persister").unwrap();
        consumer.ack_floor = consumer.ack_floor.max(seq);
        state.acknowledged.push((Instant::now(), seq));
    }

    /// Retention takes what the persister acknowledged some time ago: nothing is cut as soon as it is written, and
    /// gateways look at the floor twice a second.
    pub(crate) fn retain(&self) {
        let mut state = self.state.lock();
        let old = state.acknowledged.iter().filter(|(at, _)| at.elapsed() > CUT_AFTER);
        let floor = old.map(|(_, seq)| *seq).max().unwrap_or(0);
        let stream = state.streams.get_mut("CHAT_LOG_0").unwrap();
        stream.messages = stream.messages.split_off(&(floor + 1));
        stream.first = stream.first.max(floor + 1);
    }

    /// The next live events to a client are lost.
    pub(crate) fn drop_live(&self, name: &str, count: u32) {
        self.of(name, |connection| connection.drop_live += count);
    }

    /// The next messages from other gateways to a client are lost.
    pub(crate) fn drop_control(&self, name: &str, count: u32) {
        self.of(name, |connection| connection.drop_control += count);
    }

    /// Each of the next batches of answers to a client loses a message.
    pub(crate) fn drop_answers(&self, name: &str, count: u32) {
        self.of(name, |connection| connection.drop_answers += count);
    }

    /// No faults any more.
    pub(crate) fn heal(&self) {
        for connection in self.state.lock().connections.values_mut() {
            (connection.drop_live, connection.drop_control, connection.drop_answers) = (0, 0, 0);
        }
    }

    /// Cuts the connections of a client; for good if it `dies`.
    pub(crate) fn cut(&self, name: &str, dies: bool) {
        let mut state = self.state.lock();
        if dies {
            state.dead.push(name.to_owned());
        }
        state.connections.retain(|number, connection| {
            let stays = connection.name != name;
            if !stays {
                connection.tasks.iter().for_each(AbortHandle::abort);
                self.gate.forget(*number);
            }
            stays
        });
        self.gate.stir();
    }

    /// The keys of a node that died are purged, and its lease ends, as it would after some seconds.
    pub(crate) fn expire(&self, node: &str) {
        let mut state = self.state.lock();
        let own = format!("$KV.CHAT_PRESENCE.{node}.");
        if let Some(stream) = state.streams.get_mut("KV_CHAT_PRESENCE") {
            stream.messages.retain(|_, message| !message.subject.starts_with(&own));
        }
        let headers = vec![("KV-Operation".to_owned(), "DEL".to_owned())];
        let subject = format!("$KV.CHAT_NODES.{node}");
        self.publish(&mut state, None, Published { subject, reply: None, headers, payload: Bytes::new() });
    }

    fn of(&self, name: &str, change: impl Fn(&mut Connection)) {
        self.state.lock().connections.values_mut().filter(|it| it.name == name).for_each(change);
    }

    fn publish(&self, state: &mut State, from: Option<u64>, published: Published) {
        if let Some(api) = published.subject.strip_prefix("$JS.API.") {
            let Some(from) = from else { return };
            let api = api.to_owned();
            return self.api(state, from, &api, &published);
        }
        if published.subject.starts_with("$JS.") {
            return;
        }
        let found = state.streams.iter().find(|(_, it)| it.subjects.iter().any(|own| fits(own, &published.subject)));
        match found.map(|(name, _)| name.clone()) {
            Some(name) => {
                let answer = self.store(state, &name, &published);
                if let (Some(from), Some(reply)) = (from, &published.reply) {
                    self.reply(state, from, reply, &[], answer.to_string().as_bytes());
                }
            }
            None => {
                let mut connections = state.connections.values().flat_map(|it| &it.subscriptions);
                let has_responder = connections.any(|(_, pattern)| fits(pattern, &published.subject));
                match (from, &published.reply) {
                    (Some(from), Some(reply)) if !has_responder => {
                        self.replies(state, from, reply, &[(Some("503"), vec![], vec![])]);
                    }
                    _ => self.deliver(
                        state,
                        &published.subject,
                        published.reply.as_deref(),
                        &published.headers,
                        &published.payload,
                    ),
                }
            }
        }
    }

    fn store(&self, state: &mut State, name: &str, published: &Published) -> Value {
        let Some(stream) = state.streams.get_mut(name) else { return Value::Null };
        let now = Instant::now();
        let window = stream.window;
        stream.names.retain(|_, (at, _)| now.duration_since(*at) < window);
        let id = published.header("Nats-Msg-Id");
        if let Some((_, seq)) = id.and_then(|id| stream.names.get(id)) {
            return json!({ "stream": name, "seq": seq, "duplicate": true });
        }
        let previous_of = |stream: &Stream, subject: &str| {
            stream.messages.values().rev().find(|it| fits(subject, &it.subject)).map_or(0, |it| it.seq)
        };
        if let Some(expected) = published.header("Nats-Expected-Last-Subject-Sequence") {
            let of = published.header("Nats-Expected-Last-Subject-Sequence-Subject").unwrap_or(&published.subject);
            let last = previous_of(stream, of);
            if expected.parse() != Ok(last) {
                let description = format!("wrong last sequence: {last}");
                let error = json!({ "code": 400, "err_code": 10071, "description": description });
                return json!({ "error": error, "stream": name, "seq": 0 });
            }
        }
        let previous = previous_of(stream, &published.subject);
        stream.last += 1;
        let seq = stream.last;
        if let Some(id) = id {
            stream.names.insert(id.to_owned(), (now, seq));
        }
        let stored = Arc::new(Stored {
            seq,
            subject: published.subject.clone(),
            headers: published.headers.clone(),
            payload: published.payload.clone(),
        });
        stream.messages.insert(seq, stored.clone());
        if stream.per_subject > 0 {
            let same: Vec<u64> =
                stream.messages.values().filter(|it| it.subject == stored.subject).map(|it| it.seq).collect();
            for old in &same[..same.len().saturating_sub(stream.per_subject)] {
                stream.messages.remove(old);
            }
        }
        if let Some(conversation) = stored.subject.strip_prefix("chat.log.0.") {
            state.log.push(stored.clone());
            let mut headers = stored.headers.clone();
            headers.extend(place(name, &stored));
            headers.push(("Nats-Last-Sequence".to_owned(), previous.to_string()));
            let subject = format!("chat.live.{conversation}.log");
            self.deliver(state, &subject, None, &headers, &stored.payload);
        }
        self.push(state, name);
        json!({ "stream": name, "seq": seq, "duplicate": false })
    }

    /// To every subscription of every connection, as the plan's faults allow.
    fn deliver(
        &self,
        state: &mut State,
        subject: &str,
        reply: Option<&str>,
        headers: &[(String, String)],
        payload: &[u8],
    ) {
        for (number, connection) in &mut state.connections {
            let Connection { subscriptions, drop_live, drop_control, out, .. } = connection;
            for (sid, _) in subscriptions.iter().filter(|(_, pattern)| fits(pattern, subject)) {
                let lane = if subject.starts_with("chat.live.") {
                    if subject.ends_with(".log") && *drop_live > 0 {
                        *drop_live -= 1;
                        continue;
                    }
                    Lane::Live(*number)
                } else {
                    if subject.starts_with("chat.control.") && *drop_control > 0 {
                        *drop_control -= 1;
                        continue;
                    }
                    Lane::Control(*number)
                };
                self.gate.pass(lane, out, message(subject, sid, reply, headers, payload));
            }
        }
    }

    /// Answers a request.
    fn reply(&self, state: &State, to: u64, reply: &str, headers: &[(String, String)], payload: &[u8]) {
        self.replies(state, to, reply, &[(None, headers.to_vec(), payload.to_vec())]);
    }

    /// Answers a request by several messages, which stay together.
    #[allow(clippy::type_complexity, reason = "status, headers and payload of each")]
    fn replies(&self, state: &State, to: u64, reply: &str, answers: &[(Option<&str>, Vec<(String, String)>, Vec<u8>)]) {
        let Some(connection) = state.connections.get(&to) else { return };
        let Some((sid, _)) = connection.subscriptions.iter().find(|(_, pattern)| fits(pattern, reply)) else { return };
        let mut bytes = BytesMut::new();
        for (status, headers, payload) in answers {
            bytes.extend_from_slice(&message_with(reply, sid, None, *status, headers, payload));
        }
        self.gate.pass(self.gate.reply(), &connection.out, bytes.freeze());
    }

    /// Pushes what push consumers of a stream lack: buckets are watched by them.
    fn push(&self, state: &mut State, name: &str) {
        let State { connections, streams, .. } = state;
        let Some(stream) = streams.get_mut(name) else { return };
        for (consumer_name, consumer) in &mut stream.consumers {
            let Some(to) = consumer.config["deliver_subject"].as_str() else { continue };
            let found = connections.values().find_map(|connection| {
                let (sid, _) = connection.subscriptions.iter().find(|(_, pattern)| pattern == to)?;
                Some((connection, sid))
            });
            let Some((connection, sid)) = found else { continue };
            let wanted = consumer.config["filter_subject"].as_str().filter(|it| !it.is_empty()).unwrap_or(">");
            for stored in stream.messages.range(consumer.pushed + 1..).map(|(_, it)| it) {
                consumer.pushed = stored.seq;
                if !fits(wanted, &stored.subject) {
                    continue;
                }
                consumer.count += 1;
                let left = stream.last - stored.seq;
                let place = format!("{}.{}.{left}", stored.seq, consumer.count);
                let (place, pending) = place.rsplit_once('.').unwrap();
                let ack = format!("$JS.ACK.{name}.{consumer_name}.1.{place}.1767225600000000000.{pending}");
                let bytes = message(&stored.subject, sid, Some(&ack), &stored.headers, &stored.payload);
                // Presence is not what plans are about: it is told at once.
                self.gate.stir();
                let _ = connection.out.send(bytes);
            }
        }
    }

    fn api(&self, state: &mut State, from: u64, api: &str, published: &Published) {
        let Some(reply) = &published.reply else { return };
        let asked: Value = serde_json::from_slice(&published.payload).unwrap_or(Value::Null);
        let tokens: Vec<&str> = api.split('.').collect();
        match tokens[..] {
            ["DIRECT", "GET", name] if asked["batch"].is_null() => {
                match asked["seq"].as_u64().and_then(|seq| state.streams[name].messages.get(&seq)) {
                    Some(found) => self.reply(state, from, reply, &own_headers(name, found), &found.payload),
                    None => self.replies(state, from, reply, &[(Some("404 Message Not Found"), vec![], vec![])]),
                }
            }
            ["DIRECT", "GET", name] => self.direct_get_batch(state, from, reply, name, &asked),
            ["DIRECT", "GET", name, ..] => {
                let subject = api.splitn(4, '.').nth(3).unwrap_or_default();
                let stream = &state.streams[name];
                match stream.messages.values().rev().find(|it| it.subject == subject) {
                    Some(found) => self.reply(state, from, reply, &own_headers(name, found), &found.payload),
                    None => self.replies(state, from, reply, &[(Some("404 Message Not Found"), vec![], vec![])]),
                }
            }
            _ => {
                let answer = manage(state, &tokens, &asked);
                self.reply(state, from, reply, &[], answer.to_string().as_bytes());
                if let ["CONSUMER", "CREATE", name, ..] = tokens[..] {
                    self.push(state, name);
                }
            }
        }
    }

    fn direct_get_batch(&self, state: &mut State, from: u64, reply: &str, name: &str, asked: &Value) {
        let stream = &state.streams[name];
        let (first, batch) = (asked["seq"].as_u64().unwrap_or(1), asked["batch"].as_u64().unwrap_or(1) as usize);
        let wanted = asked["next_by_subj"].as_str().unwrap_or(">");
        let mut found: Vec<Arc<Stored>> = match asked["multi_last"].as_array() {
            Some(wanted) => {
                let last = |subject: &Value| {
                    let subject = subject.as_str().unwrap_or_default();
                    stream.messages.range(first..).map(|(_, it)| it).rev().find(|it| fits(subject, &it.subject))
                };
                wanted.iter().filter_map(last).cloned().collect()
            }
            None => {
                let later = stream.messages.range(first..).map(|(_, it)| it);
                later.filter(|it| fits(wanted, &it.subject)).cloned().collect()
            }
        };
        found.sort_by_key(|it| it.seq);
        let mut pending = found.len();
        found.truncate(batch);
        let batch_headers = |pending: usize, last: u64| {
            [("Nats-Num-Pending", pending as u64), ("Nats-Last-Sequence", last)]
                .map(|(name, value)| (name.to_owned(), value.to_string()))
        };
        let mut last = 0;
        let mut answers = Vec::new();
        for it in &found {
            pending -= 1;
            let headers = [own_headers(name, it), batch_headers(pending, last).to_vec()].concat();
            answers.push((None, headers, it.payload.to_vec()));
            last = it.seq;
        }
        // One for the last messages fails only if there is none at all, wherever it begins.
        let subjects: Vec<&str> =
            asked["multi_last"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let has_last = stream.messages.values().any(|it| subjects.iter().any(|subject| fits(subject, &it.subject)));
        if answers.is_empty() && !has_last {
            answers.push((Some("404 Message Not Found"), vec![], vec![]));
        } else {
            if let Some(connection) = state.connections.get_mut(&from).filter(|it| it.drop_answers > 0)
                && !answers.is_empty()
            {
                connection.drop_answers -= 1;
                answers.remove(last as usize % answers.len());
            }
            answers.push((Some("204 EOB"), batch_headers(pending, last).to_vec(), vec![]));
        }
        self.replies(state, from, reply, &answers);
    }
}

/// Answers the rest of JetStream's API.
fn manage(state: &mut State, tokens: &[&str], asked: &Value) -> Value {
    let missing =
        |what: &str, number: u64| json!({ "error": { "code": 404, "err_code": number, "description": what } });
    match *tokens {
        ["STREAM", "INFO" | "CREATE" | "UPDATE" | "PURGE", name] => {
            if tokens[1] == "CREATE" && !state.streams.contains_key(name) {
                state.streams.insert(name.to_owned(), Stream::new(asked));
            }
            let Some(stream) = state.streams.get_mut(name) else { return missing("stream not found", 10059) };
            if tokens[1] == "UPDATE" {
                stream.config = asked.clone();
            }
            if tokens[1] == "PURGE" {
                let filter = asked["filter"].as_str().unwrap_or(">").to_owned();
                let before = stream.messages.len();
                stream.messages.retain(|_, it| !fits(&filter, &it.subject));
                return json!({ "success": true, "purged": before - stream.messages.len() });
            }
            stream.info()
        }
        ["CONSUMER", "INFO", stream, name] => {
            let found = state.streams.get(stream).and_then(|it| it.consumers.get(name));
            found.map_or_else(|| missing("consumer not found", 10014), |it| it.info(stream, name))
        }
        ["CONSUMER", "CREATE", name, ref rest @ ..] => {
            let Some(stream) = state.streams.get_mut(name) else { return missing("stream not found", 10059) };
            let made = format!("c{}", stream.consumers.len());
            let consumer = rest.first().map_or(made, |it| (*it).to_owned());
            let config = asked["config"].clone();
            let pushed = config["opt_start_seq"].as_u64().map_or(0, |start| start - 1);
            let consumer_of =
                stream.consumers.entry(consumer.clone()).or_insert(Consumer { config, ack_floor: 0, pushed, count: 0 });
            consumer_of.info(name, &consumer)
        }
        ["CONSUMER", "DELETE", stream, name] => {
            state.streams.get_mut(stream).map(|it| it.consumers.remove(name));
            json!({ "success": true })
        }
        ["STREAM", "NAMES"] => {
            let names: Vec<_> = state.streams.keys().collect();
            json!({ "total": names.len(), "offset": 0, "limit": 1_024, "streams": names })
        }
        ["INFO"] => {
            let limits = json!({ "max_memory": -1, "max_storage": -1, "max_streams": -1, "max_consumers": -1,
                "max_ack_pending": -1, "memory_max_stream_bytes": -1, "storage_max_stream_bytes": -1,
                "max_bytes_required": false });
            json!({ "memory": 0, "storage": 0, "reserved_memory": 0, "reserved_storage": 0, "streams": 0,
                "consumers": 0, "limits": limits, "api": { "total": 0, "errors": 0, "level": 1 }, "tiers": {} })
        }
        _ => panic!("JetStream's API {tokens:?} is not part of the server in memory"),
    }
}

impl Stream {
    fn new(config: &Value) -> Self {
        let subjects = config["subjects"].as_array().into_iter().flatten();
        let first = config["first_seq"].as_u64().unwrap_or(1).max(1);
        Self {
            config: config.clone(),
            subjects: subjects.filter_map(|it| it.as_str().map(str::to_owned)).collect(),
            per_subject: config["max_msgs_per_subject"].as_u64().unwrap_or(0) as usize,
            window: Duration::from_nanos(config["duplicate_window"].as_u64().unwrap_or(0)),
            messages: BTreeMap::new(),
            first,
            last: first - 1,
            names: HashMap::new(),
            consumers: BTreeMap::new(),
        }
    }

    fn info(&self) -> Value {
        let first = self.messages.keys().next().copied().unwrap_or(self.last + 1).max(self.first);
        let state = json!({
            "messages": self.messages.len(), "bytes": 0, "first_seq": first, "first_ts": TIME,
            "last_seq": self.last, "last_ts": TIME, "consumer_count": self.consumers.len(),
        });
        json!({ "type": "io.nats.jetstream.api.v1.stream_info_response", "config": self.config, "created": TIME,
            "state": state })
    }
}

impl Consumer {
    fn info(&self, stream: &str, name: &str) -> Value {
        let place = |seq: u64| json!({ "consumer_seq": seq, "stream_seq": seq });
        json!({
            "type": "io.nats.jetstream.api.v1.consumer_info_response", "stream_name": stream, "name": name,
            "created": TIME, "config": self.config, "delivered": place(self.ack_floor),
            "ack_floor": place(self.ack_floor), "num_ack_pending": 0, "num_redelivered": 0, "num_waiting": 0,
            "num_pending": 0,
        })
    }
}

/// The headers of a stored message in an answer: its own, and its place.
fn own_headers(stream: &str, stored: &Stored) -> Vec<(String, String)> {
    [stored.headers.clone(), place(stream, stored)].concat()
}

fn place(stream: &str, stored: &Stored) -> Vec<(String, String)> {
    let header = |name: &str, value: String| (name.to_owned(), value);
    vec![
        header("Nats-Stream", stream.to_owned()),
        header("Nats-Subject", stored.subject.clone()),
        header("Nats-Sequence", stored.seq.to_string()),
        header("Nats-Time-Stamp", TIME.to_owned()),
    ]
}

fn message(subject: &str, sid: &str, reply: Option<&str>, headers: &[(String, String)], payload: &[u8]) -> Bytes {
    message_with(subject, sid, reply, None, headers, payload)
}

fn message_with(
    subject: &str,
    sid: &str,
    reply: Option<&str>,
    status: Option<&str>,
    headers: &[(String, String)],
    payload: &[u8],
) -> Bytes {
    let reply = reply.map_or(String::new(), |reply| format!(" {reply}"));
    let mut bytes = Vec::new();
    if status.is_none() && headers.is_empty() {
        bytes.extend_from_slice(format!("MSG {subject} {sid}{reply} {}\r\n", payload.len()).as_bytes());
    } else {
        let mut head = format!("NATS/1.0{}\r\n", status.map_or(String::new(), |status| format!(" {status}")));
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let (head_length, length) = (head.len(), head.len() + payload.len());
        bytes.extend_from_slice(format!("HMSG {subject} {sid}{reply} {head_length} {length}\r\n{head}").as_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

/// Whether a subject fits a pattern with `*` and `>`.
fn fits(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for token in pattern.split('.') {
        match (token, subject.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

async fn accept(nats: Arc<Nats>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        nats.gate.stir();
        stream.set_nodelay(true).unwrap();
        let (from, to) = stream.into_split();
        let (out, written) = mpsc::unbounded_channel();
        let _ = out.send(Bytes::from_static(INFO.as_bytes()));
        let writer = tokio::spawn(write(to, written, nats.gate.clone())).abort_handle();
        let mut state = nats.state.lock();
        state.next += 1;
        let number = state.next;
        let reader = tokio::spawn(serve(nats.clone(), number, from, out.clone())).abort_handle();
        state.connections.insert(
            number,
            Connection {
                out,
                name: String::new(),
                subscriptions: Vec::new(),
                tasks: vec![writer, reader],
                drop_live: 0,
                drop_control: 0,
                drop_answers: 0,
            },
        );
    }
}

async fn serve(nats: Arc<Nats>, number: u64, mut from: OwnedReadHalf, out: mpsc::UnboundedSender<Bytes>) {
    let mut buffer = BytesMut::new();
    loop {
        if !from.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
            break;
        }
        nats.gate.stir();
        while let Some(line) = line(&buffer) {
            let Some(length) = nats.take(number, &line, &buffer[line.len() + 2..], &out) else { break };
            buffer.advance(line.len() + 2 + length);
        }
        // A client whose gateway is dead comes back in vain.
        let refused = {
            let state = nats.state.lock();
            state.connections.get(&number).is_none_or(|it| state.dead.contains(&it.name))
        };
        if refused {
            break;
        }
    }
    // Its writer closes the other half.
    if let Some(gone) = nats.state.lock().connections.remove(&number) {
        gone.tasks.iter().for_each(AbortHandle::abort);
    }
}

fn line(buffer: &[u8]) -> Option<String> {
    let end = buffer.windows(2).position(|it| it == b"\r\n")?;
    Some(String::from_utf8_lossy(&buffer[..end]).into_owned())
}

impl Nats {
    /// Does what a client's line asks. `rest` follows it.
    ///
    /// # Returns
    /// How much of `rest` belonged to it; `None` if it is not whole yet.
    fn take(&self, number: u64, line: &str, rest: &[u8], out: &mpsc::UnboundedSender<Bytes>) -> Option<usize> {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let words: Vec<&str> = words.collect();
        let mut state = self.state.lock();
        match (&*verb, &*words) {
            ("CONNECT", options) => {
                let options: Value = serde_json::from_str(&options.join(" ")).unwrap_or(Value::Null);
                let connection = state.connections.get_mut(&number)?;
                connection.name = options["name"].as_str().unwrap_or_default().to_owned();
            }
            ("PING", _) => drop(out.send(Bytes::from_static(b"PONG\r\n"))),
            ("SUB", [subject, .., sid]) => {
                let subject = (*subject).to_owned();
                state.connections.get_mut(&number)?.subscriptions.push(((*sid).to_owned(), subject.clone()));
                let watched = |it: &Consumer| it.config["deliver_subject"] == *subject;
                let found = state.streams.iter().find(|(_, stream)| stream.consumers.values().any(watched));
                if let Some(name) = found.map(|(name, _)| name.clone()) {
                    self.push(&mut state, &name);
                }
            }
            // One that ends after a number of messages is ended by its client as well.
            ("UNSUB", [sid]) => state.connections.get_mut(&number)?.subscriptions.retain(|(it, _)| it != sid),
            ("PUB", [subject, reply @ .., length]) => {
                let length = length.parse().ok()?;
                let payload = rest.get(..length + 2)?[..length].to_vec().into();
                let (subject, reply) = ((*subject).to_owned(), reply.first().map(|it| (*it).to_owned()));
                self.publish(&mut state, Some(number), Published { subject, reply, headers: Vec::new(), payload });
                return Some(length + 2);
            }
            ("HPUB", [subject, reply @ .., head, length]) => {
                let (head, length): (usize, usize) = (head.parse().ok()?, length.parse().ok()?);
                let whole = &rest.get(..length + 2)?[..length];
                let text = String::from_utf8_lossy(&whole[..head]).into_owned();
                let headers = text.lines().skip(1).filter_map(|it| it.split_once(':'));
                let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
                let (subject, reply) = ((*subject).to_owned(), reply.first().map(|it| (*it).to_owned()));
                let payload = whole[head..].to_vec().into();
                self.publish(&mut state, Some(number), Published { subject, reply, headers, payload });
                return Some(length + 2);
            }
            _ => {}
        }
        Some(0)
    }
}
