//! The clients' protocol: what they send, the table of errors, the table of close codes, the limits.

pub mod seq;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::seq::MAX_SEQ;
use crate::{
    event::MessageType,
    ids::{ClientId, ConversationId, Seq},
};

/// The WebSocket subprotocol that the server answers.
pub const SUBPROTOCOL: &str = "partyline.v1";
/// A subprotocol entry that carries a token: this prefix and the JWT.
pub const BEARER_SUBPROTOCOL_PREFIX: &str = "bearer.";
/// The longest `ref`, in bytes.
pub const MAX_REF_BYTES: usize = 128;
const REF_RULE: &str = "ref is a string of at most 128 bytes";
/// The longest content, in Unicode code points after trimming.
pub const MAX_CONTENT_CHARS: usize = 1_000;
/// The largest metadata, in bytes of JSON as it came.
pub const MAX_METADATA_BYTES: usize = 4_096;
/// Messages or events in a page when the client names no limit.
pub const DEFAULT_PAGE: u32 = 50;
/// The largest page.
pub const MAX_PAGE: u32 = 200;
/// Conversations in one `join_conversations`.
pub const MAX_JOINS: usize = 80;
/// What this server can do beyond the first version of the protocol; `welcome` names it.
pub const FEATURES: &[&str] = &["join_conversations"];

/// Why a request was refused: stable, one table for WebSocket, Socket.IO and REST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not JSON, or not one object.
    BadJson,
    /// A field is missing, of the wrong type, or out of its range.
    BadRequest,
    /// The server knows no such frame type.
    UnknownType,
    /// Content is empty, too long, or has control characters.
    InvalidContent,
    /// Metadata is no object, or too large.
    InvalidMetadata,
    /// No token, or one that doesn't verify.
    TokenInvalid,
    /// The token has ended.
    TokenExpired,
    /// Not a participant, or not this one's to do.
    Forbidden,
    /// No such conversation, message or participant.
    NotFound,
    /// The path knows other methods only.
    MethodNotAllowed,
    /// Contradicts what is stored.
    Conflict,
    /// The body is larger than the limit.
    TooLarge,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// Over the budget; `retry_after_ms` tells when to come back.
    RateLimited,
    /// A part behind the gateway doesn't answer; nothing was stored, or a repeat with the same
    /// `client_id` finds out.
    Unavailable,
    /// A defect of the server.
    Internal,
}

impl ErrorCode {
    /// The code as it stands on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadRequest => "bad_request",
            Self::UnknownType => "unknown_type",
            Self::InvalidContent => "invalid_content",
            Self::InvalidMetadata => "invalid_metadata",
            Self::TokenInvalid => "token_invalid",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadJson | Self::BadRequest | Self::UnknownType => 400,
            Self::InvalidContent | Self::InvalidMetadata => 422,
            Self::TokenInvalid | Self::TokenExpired => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RateLimited => 429,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }
}

/// A refusal: what every command returns when it doesn't do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Refusal {
    pub code: ErrorCode,
    /// For people; may change.
    pub message: String,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    #[must_use]
    pub fn retry_after(mut self, after: std::time::Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    /// A part behind the gateway doesn't answer.
    #[must_use]
    pub fn unavailable(what: &str) -> Self {
        Self::new(ErrorCode::Unavailable, format!("{what} does not answer; try again"))
            .retry_after(std::time::Duration::from_secs(1))
    }
}

/// Why the server closes a socket. 4000–4499 come back, 4500–4999 don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// No sign of life for too long.
    IdleTimeout,
    /// The server is leaving; another one takes over after `retry_after_ms`.
    Draining,
    /// The client reads slower than its conversations speak; come back with `after`.
    TooSlow,
    /// A newer connection of the same person took this one's place. A client that came back by itself would replace
    /// another one: it waits until somebody uses it.
    Replaced,
    /// The log was lost and begun again (new `epoch`): join again.
    LogRestarted,
    /// More frames a second than allowed. This version doesn't send it: it reads later.
    TooManyFrames,
    /// Socket.IO: a request brought packets while another one did.
    OverlappingRequests,
    /// The token ended and was not renewed.
    TokenExpired,
    /// The client broke the WebSocket protocol or its limits.
    ProtocolError,
}

impl CloseCode {
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::IdleTimeout => 4000,
            Self::Draining => 4001,
            Self::TooSlow => 4008,
            Self::Replaced => 4509,
            Self::LogRestarted => 4010,
            Self::OverlappingRequests => 4011,
            Self::TooManyFrames => 4029,
            Self::TokenExpired => 4401,
            Self::ProtocolError => 4500,
        }
    }

    /// The `code` in the close reason, unless a more special one is told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdleTimeout => "idle_timeout",
            Self::Draining => "draining",
            Self::TooSlow => "too_slow",
            Self::Replaced => "replaced",
            Self::LogRestarted => "log_restarted",
            Self::OverlappingRequests => "overlapping_requests",
            Self::TooManyFrames => "too_many_frames",
            Self::TokenExpired => "token_expired",
            Self::ProtocolError => "protocol_error",
        }
    }
}

/// What `welcome` tells of the limits in force; 0 means no limit where a limit can be lifted.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Limits {
    pub messages_per_minute: u32,
    pub messages_burst: u32,
    pub frames_per_second: u32,
    /// Frames that a rested connection may send at once; a server that tells it reads what comes faster later.
    #[serde(default)]
    pub frames_burst: u32,
    pub connections_per_user: u32,
    pub max_frame_bytes: usize,
    pub max_content_chars: usize,
    pub max_metadata_bytes: usize,
    pub outbound_queue_bytes: usize,
    pub ping_interval_ms: u64,
    pub idle_timeout_ms: u64,
}

/// What a client asks. Unknown fields are ignored.
#[derive(Clone, Debug)]
pub enum Command {
    JoinConversation(JoinConversation),
    JoinConversations(JoinConversations),
    LeaveConversation(LeaveConversation),
    SendMessage(SendMessage),
    Typing(Typing),
    MarkRead(MarkRead),
    EditMessage(EditMessage),
    DeleteMessage(DeleteMessage),
    RefreshToken(RefreshToken),
}

impl Command {
    /// Reads a command's fields, a JSON object; `kind` names the command.
    ///
    /// # Errors
    /// `unknown_type`, `bad_request`.
    pub fn parse(kind: &str, fields: &str) -> Result<Self, Refusal> {
        match kind {
            "join_conversation" => body(fields).map(Self::JoinConversation),
            "join_conversations" => body(fields).and_then(JoinConversations::checked).map(Self::JoinConversations),
            "leave_conversation" => body(fields).map(Self::LeaveConversation),
            "send_message" => body(fields).map(Self::SendMessage),
            "typing" => body(fields).map(Self::Typing),
            "mark_read" => body(fields).map(Self::MarkRead),
            "edit_message" => body(fields).map(Self::EditMessage),
            "delete_message" => body(fields).map(Self::DeleteMessage),
            "refresh_token" => body(fields).map(Self::RefreshToken),
            _ => Err(Refusal::new(ErrorCode::UnknownType, "no such frame type")),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct JoinConversation {
    pub conversation_id: ConversationId,
    /// The last `seq` that the client holds.
    #[serde(default, deserialize_with = "seq::optional")]
    pub after: Option<Seq>,
}

/// Joins many conversations; each is answered by itself.
#[derive(Clone, Debug, Deserialize)]
pub struct JoinConversations {
    pub conversations: Vec<JoinOfMany>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct JoinOfMany {
    /// Repeated in this conversation's answer; without it the `ref` of the command is.
    #[serde(rename = "ref", default)]
    pub reference: Option<String>,
    #[serde(flatten)]
    pub join: JoinConversation,
}

impl JoinConversations {
    fn checked(self) -> Result<Self, Refusal> {
        if !(1..=MAX_JOINS).contains(&self.conversations.len()) {
            return Err(Refusal::new(ErrorCode::BadRequest, format!("conversations has 1 to {MAX_JOINS} entries")));
        }
        if self.conversations.iter().filter_map(|it| it.reference.as_ref()).any(|it| it.len() > MAX_REF_BYTES) {
            return Err(Refusal::new(ErrorCode::BadRequest, REF_RULE));
        }
        Ok(self)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct LeaveConversation {
    pub conversation_id: ConversationId,
}

#[derive(Clone, Debug, Deserialize)]
pub struct SendMessage {
    pub conversation_id: ConversationId,
    pub client_id: ClientId,
    pub content: String,
    #[serde(default)]
    pub message_type: Option<MessageType>,
    #[serde(default)]
    pub metadata: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "seq::optional")]
    pub reply_to: Option<Seq>,
    /// Set if the transport made `client_id` of a name that may mean another message later.
    #[serde(skip)]
    pub temporary: Option<TemporaryName>,
}

/// A name that means a message for a limited time, in which another one of that name is a repeat. Its `client_id`
/// changes when a period as long as that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemporaryName {
    /// The same in every period.
    pub root: ClientId,
    /// The `client_id` of the period before.
    pub previous: ClientId,
    pub lifetime: Duration,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Typing {
    pub conversation_id: ConversationId,
    pub is_typing: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct MarkRead {
    pub conversation_id: ConversationId,
    #[serde(deserialize_with = "seq::required")]
    pub seq: Seq,
}

#[derive(Clone, Debug, Deserialize)]
pub struct EditMessage {
    pub conversation_id: ConversationId,
    #[serde(deserialize_with = "seq::required")]
    pub seq: Seq,
    pub content: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DeleteMessage {
    pub conversation_id: ConversationId,
    #[serde(deserialize_with = "seq::required")]
    pub seq: Seq,
}

#[derive(Clone, Deserialize)]
pub struct RefreshToken {
    pub token: String,
}

impl std::fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefreshToken")
    }
}

/// A client's frame: its `ref`, and the command or why it is none.
#[derive(Debug)]
pub struct Request {
    pub reference: Option<String>,
    pub command: Result<Command, Refusal>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "ref", borrow, default)]
    reference: Option<&'a RawValue>,
}

impl Request {
    /// Reads a text frame. Never fails: what is wrong stands in `command`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let refuse = |code, message: String| Self { reference: None, command: Err(Refusal::new(code, message)) };
        // serde takes an array for a struct; the contract says an object.
        if !text.trim_start().starts_with('{') {
            return refuse(ErrorCode::BadJson, "a frame is one JSON object".into());
        }
        let envelope: Envelope<'_> = match serde_json::from_str(text) {
            Ok(envelope) => envelope,
            Err(error) if error.is_data() => return refuse(ErrorCode::BadRequest, error.to_string()),
            Err(error) => return refuse(ErrorCode::BadJson, error.to_string()),
        };
        let reference = match envelope.reference.map(|raw| serde_json::from_str::<Option<String>>(raw.get())) {
            None | Some(Ok(None)) => None,
            Some(Ok(Some(reference))) if reference.len() <= MAX_REF_BYTES => Some(reference),
            Some(_) => return refuse(ErrorCode::BadRequest, REF_RULE.into()),
        };
        let Some(kind) = envelope.kind else {
            return Self { reference, command: Err(Refusal::new(ErrorCode::BadRequest, "type is missing")) };
        };
        Self { reference, command: Command::parse(&kind, text) }
    }
}

fn body<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> ErrorCode {
        Request::parse(text).command.unwrap_err().code
    }

    #[test]
    fn names_what_is_wrong_with_a_frame() {
        assert_eq!(code("nonsense"), ErrorCode::BadJson);
        assert_eq!(code("[]"), ErrorCode::BadJson);
        assert_eq!(code("{\"type\":\"typing\""), ErrorCode::BadJson);
        assert_eq!(code("{}"), ErrorCode::BadRequest);
        assert_eq!(code("{\"type\":7}"), ErrorCode::BadRequest);
        assert_eq!(code("{\"type\":\"dance\"}"), ErrorCode::UnknownType);
        assert_eq!(code("{\"type\":\"join_conversation\",\"conversation_id\":\"x\"}"), ErrorCode::BadRequest);
        assert_eq!(code("{\"type\":\"typing\",\"ref\":5}"), ErrorCode::BadRequest);
    }

    #[test]
    fn join_conversations_is_a_list_of_joins() {
        let id = "0198f0a2-0000-7000-8000-000000000001";
        let text = format!(
            "{{\"type\":\"join_conversations\",\"ref\":\"all\",\"conversations\":[{{\"conversation_id\":\"{id}\"}},\
             {{\"conversation_id\":\"{id}\",\"after\":7,\"ref\":\"b\"}}]}}"
        );
        let Ok(Command::JoinConversations(joins)) = Request::parse(&text).command else { panic!("{text}") };
        let read: Vec<_> = joins.conversations.iter().map(|it| (it.reference.as_deref(), it.join.after)).collect();
        assert_eq!(read, [(None, None), (Some("b"), Some(7))]);
        let list = |entries: &str| format!("{{\"type\":\"join_conversations\",\"conversations\":[{entries}]}}");
        let entry = format!("{{\"conversation_id\":\"{id}\"}}");
        assert_eq!(code(&list("")), ErrorCode::BadRequest);
        assert_eq!(code(&list(&vec![entry; MAX_JOINS + 1].join(","))), ErrorCode::BadRequest);
        // The largest legal list fits a frame.
        let (largest, reference) = ((1_u64 << 53) - 1, "x".repeat(MAX_REF_BYTES));
        let entry = format!("{{\"conversation_id\":\"{id}\",\"after\":{largest},\"ref\":\"{reference}\"}}");
        let text = list(&vec![entry; MAX_JOINS].join(","));
        assert!(Request::parse(&text).command.is_ok() && text.len() <= 20 * 1_024, "{}", text.len());
        let long = "x".repeat(MAX_REF_BYTES + 1);
        assert_eq!(code(&list(&format!("{{\"conversation_id\":\"{id}\",\"ref\":\"{long}\"}}"))), ErrorCode::BadRequest);
    }

    #[test]
    fn keeps_the_ref_of_a_refused_frame() {
        let request = Request::parse("{\"type\":\"dance\",\"ref\":\"a\\u0041\",\"extra\":1}");
        assert_eq!(request.reference.as_deref(), Some("aA"));
    }
}
