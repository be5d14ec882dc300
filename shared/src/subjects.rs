//! Every NATS subject, stream and bucket name: built and parsed here and nowhere else.

use std::fmt::Write as _;

use crate::ids::{ConversationId, UserId, fnv};

/// How many partitions (streams) the log may have.
pub const MAX_PARTITIONS: u16 = 256;
/// The persister's durable consumer on each log stream.
pub const PERSISTER_CONSUMER: &str = "persister";
/// Events that could not be written to Postgres, with the reason in [`DEAD_REASON`].
pub const DEAD_STREAM: &str = "CHAT_DEAD";
/// All subjects of [`DEAD_STREAM`].
pub const DEAD_ALL: &str = "chat.dead.>";
/// Header of a dead letter: why it could not be written.
pub const DEAD_REASON: &str = "Partyline-Reason";
/// Header of a dead letter: its sequence in the log.
pub const DEAD_SEQ: &str = "Partyline-Seq";
/// When people were last seen: one message a user, consumed by the persister.
pub const SEEN_STREAM: &str = "CHAT_SEEN";
/// All subjects of [`SEEN_STREAM`].
pub const SEEN_ALL: &str = "chat.seen.*";
/// Key-value bucket: one key a node and user who is connected there.
pub const PRESENCE_BUCKET: &str = "CHAT_PRESENCE";
/// Key-value bucket: one lease key a live gateway node.
pub const NODES_BUCKET: &str = "CHAT_NODES";
/// Broadcast to all gateways: the participants of a conversation changed.
pub const MEMBERS_CHANGED: &str = "chat.control.members";
/// Broadcast to all gateways: the names or types of users changed; the payload is a JSON list of their ids.
pub const USERS_CHANGED: &str = "chat.control.users";
/// Broadcast to all gateways: a log was lost and begun again.
pub const LOG_RESTARTED: &str = "chat.control.log";
/// Broadcast to all gateways: the people of a node, which seems to be dead, were taken out of the bucket.
pub const PRESENCE_TIDIED: &str = "chat.control.presence";
/// Broadcast to all gateways: messages that users sent elsewhere, for their budgets.
pub const DEBITS: &str = "chat.control.debits";
/// Header of a log event: the node that appended it.
pub const ORIGIN_HEADER: &str = "Partyline-Node";
/// Header of a log event that is traced: the span that published it, in the form of W3C Trace Context. A request's has
/// the same name.
pub const TRACEPARENT: &str = "traceparent";
/// What all subjects of the log look like, for the names of spans.
pub const LOG_TEMPLATE: &str = "chat.log.{partition}.{conversation}";
/// What all subjects of live events look like, for the names of spans.
pub const LIVE_TEMPLATE: &str = "chat.live.{conversation}.log";

/// The partition of a conversation whose id names none: stable for ever, since it decides where its log lies.
#[must_use]
pub fn partition(conversation: ConversationId, partitions: u16) -> u16 {
    // Over all 16 bytes: uuids of version 7 share their leading bits.
    let hash = fnv(conversation.0.as_bytes());
    u16::try_from((hash >> 16) % u64::from(partitions.max(1))).unwrap_or(0)
}

/// The partition of a log's stream (`CHAT_LOG_<p>`).
#[must_use]
pub fn parse_log_stream(name: &str) -> Option<u16> {
    name.strip_prefix("CHAT_LOG_")?.parse().ok()
}

/// The stream that holds a partition of the log.
#[must_use]
pub fn log_stream(partition: u16) -> String {
    format!("CHAT_LOG_{partition}")
}

/// Whether a stream is one of Partyline's: an account may have others.
#[must_use]
pub fn is_ours(stream: &str) -> bool {
    let bucket = |name| stream.strip_prefix("KV_") == Some(name);
    parse_log_stream(stream).is_some()
        || [DEAD_STREAM, SEEN_STREAM].contains(&stream)
        || [PRESENCE_BUCKET, NODES_BUCKET].into_iter().any(bucket)
}

/// Where events of a partition are read in batches (direct get), past what the client library offers.
#[must_use]
pub fn direct_get(partition: u16) -> String {
    format!("$JS.API.DIRECT.GET.{}", log_stream(partition))
}

/// All subjects of a partition's stream.
#[must_use]
pub fn log_all(partition: u16) -> String {
    format!("chat.log.{partition}.*")
}

/// Where a conversation's events are appended.
#[must_use]
pub fn log(partition: u16, conversation: ConversationId) -> String {
    format!("chat.log.{partition}.{conversation}")
}

/// The conversation of a log subject (`chat.log.<p>.<conversation>`).
#[must_use]
pub fn parse_log(subject: &str) -> Option<ConversationId> {
    let mut tokens = subject.strip_prefix("chat.log.")?.split('.');
    tokens.next()?.parse::<u16>().ok()?;
    let conversation = tokens.next()?.parse().ok()?;
    tokens.next().is_none().then_some(conversation)
}

/// Where JetStream republishes a partition's stored events: source and destination.
#[must_use]
pub fn republish(partition: u16) -> (String, String) {
    (log_all(partition), "chat.live.{{wildcard(1)}}.log".to_owned())
}

/// Everything live in a conversation: stored events and ephemera.
#[must_use]
pub fn live_all(conversation: ConversationId) -> String {
    format!("chat.live.{conversation}.*")
}

/// Ephemeral typing signals of a conversation.
#[must_use]
pub fn live_typing(conversation: ConversationId) -> String {
    format!("chat.live.{conversation}.typing")
}

/// What a live subject carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    Log,
    Typing,
}

/// The kind of a live subject, by its last token.
#[must_use]
pub fn parse_live(subject: &str) -> Option<Live> {
    match subject.strip_prefix("chat.live.")?.split('.').nth(1)? {
        "log" => Some(Live::Log),
        "typing" => Some(Live::Typing),
        _ => None,
    }
}

/// A node's inbox: what happened in conversations of people who are connected there.
#[must_use]
pub fn node_inbox(node: &str) -> String {
    format!("chat.node.{node}.inbox")
}

/// Asks a node, as the owner of a user's budget, for one message.
#[must_use]
pub fn node_budget(node: &str) -> String {
    format!("chat.node.{node}.budget")
}

/// The same for a service.
#[must_use]
pub fn node_service_budget(node: &str) -> String {
    format!("chat.node.{node}.budget.service")
}

/// The dead letter of an event: one subject each, so that none is stored twice.
#[must_use]
pub fn dead(log_subject: &str, seq: u64) -> String {
    format!("chat.dead.{}.{seq}", log_subject.strip_prefix("chat.log.").unwrap_or(log_subject))
}

/// The log subject and the partition of a dead letter.
#[must_use]
pub fn parse_dead(subject: &str) -> Option<(String, u16)> {
    let mut tokens = subject.strip_prefix("chat.dead.")?.split('.');
    let (partition, conversation) = (tokens.next()?, tokens.next()?);
    Some((format!("chat.log.{partition}.{conversation}"), partition.parse().ok()?))
}

/// When a user was last seen.
#[must_use]
pub fn seen(user: &UserId) -> String {
    format!("chat.seen.{}", token(user.as_str()))
}

/// The presence key of a user on a node.
#[must_use]
pub fn presence_key(node: &str, user: &UserId) -> String {
    format!("{node}.{}", token(user.as_str()))
}

/// Node and user of a presence key.
#[must_use]
pub fn parse_presence_key(key: &str) -> Option<(&str, UserId)> {
    let (node, user) = key.split_once('.')?;
    Some((node, UserId::new(&untoken(user)?).ok()?))
}

/// All presence keys of a node, as a subject of the bucket's stream.
#[must_use]
pub fn presence_of_node(node: &str) -> String {
    format!("$KV.{PRESENCE_BUCKET}.{node}.>")
}

/// The user whose subject or key token this is.
#[must_use]
pub fn parse_seen(subject: &str) -> Option<UserId> {
    UserId::new(&untoken(subject.strip_prefix("chat.seen.")?)?).ok()
}

/// A text as one subject token that is a valid key too: bytes other than `[A-Za-z0-9_-]` become `=XX`.
fn token(text: &str) -> String {
    let mut token = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            token.push(char::from(byte));
        } else {
            let _ = write!(token, "={byte:02X}");
        }
    }
    token
}

fn untoken(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'=' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_subjects_name_their_conversation() {
        let conversation = ConversationId::generate();
        assert_eq!(parse_log(&log(7, conversation)), Some(conversation));
        assert_eq!(parse_log("chat.log.x.y"), None);
        assert_eq!(parse_live(&live_typing(conversation)), Some(Live::Typing));
        assert_eq!(parse_dead(&dead(&log(7, conversation), 12)), Some((log(7, conversation), 7)));
    }

    #[test]
    fn any_user_id_survives_as_a_token() {
        for text in ["1", "a.b*c>d e", "ünï=codé", "x_y-z"] {
            let user = UserId::new(text).unwrap();
            assert_eq!(parse_seen(&seen(&user)), Some(user.clone()));
            assert_eq!(parse_presence_key(&presence_key("n1", &user)), Some(("n1", user)));
        }
    }

    #[test]
    fn partitions_are_stable_and_spread() {
        let fixed: ConversationId = "018f4e9c-7a54-7c8e-b8b5-0a1b2c3d4e5f".parse().unwrap();
        assert_eq!(partition(fixed, 1), 0);
        let first = partition(fixed, 16);
        assert_eq!(partition(fixed, 16), first);
        let mut hits = [0_u32; 8];
        for _ in 0..8_000 {
            hits[usize::from(partition(ConversationId::generate(), 8))] += 1;
        }
        assert!(hits.iter().all(|&n| (700..1300).contains(&n)), "{hits:?}");
    }

    #[test]
    fn stream_names_are_parsed_back() {
        assert_eq!(parse_log_stream(&log_stream(17)), Some(17));
        assert_eq!(parse_log_stream("CHAT_LOG_x"), None);
        assert_eq!(parse_log_stream(DEAD_STREAM), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_one_token_and_comes_back(text in ".*") {
            let token = token(&text);
            proptest::prop_assert!(token.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-=".contains(&it)), "{token}");
            proptest::prop_assert_eq!(untoken(&token), Some(text));
        }

        #[test]
        fn any_subject_is_parsed_or_refused(subject in "chat\\.(log|live|seen)(\\.[^ ]{0,40}){0,4}|.*") {
            // Whatever another program publishes must not end this one.
            let _ = (parse_log(&subject), parse_live(&subject), parse_seen(&subject), untoken(&subject));
        }
    }
}
