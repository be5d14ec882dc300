//! What a verified token says.

use partyline_shared::{
    claims::{Identity, UserType},
    ids::UserId,
    wire::Refusal,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::invalid;

/// The longest user name, in bytes: it travels with every message.
const MAX_USERNAME_BYTES: usize = 256;

/// A token's claims, as they came.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Payload(Map<String, Value>);

impl Payload {
    /// Reads the claims; the time claims are checked already.
    ///
    /// # Errors
    /// `token_invalid`, naming the claim.
    pub(super) fn identity(&self, user_claim: &str, leeway: i64) -> Result<Identity, Refusal> {
        let user_id = match self.0.get(user_claim) {
            Some(Value::String(text)) => UserId::new(text).ok(),
            // The system being replaced numbers its users.
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => UserId::new(&number.to_string()).ok(),
            _ => None,
        };
        let user_id = user_id.ok_or_else(|| invalid(&format!("the token's claim {user_claim:?} is no user id")))?;
        let username = match self.0.get("username") {
            None | Some(Value::Null) => user_id.as_str().to_owned(),
            Some(Value::String(name)) if name.trim().is_empty() => user_id.as_str().to_owned(),
            Some(Value::String(name)) if name.len() <= MAX_USERNAME_BYTES && !name.chars().any(char::is_control) => {
                name.clone()
            }
            Some(_) => return Err(invalid("the token's claim \"username\" is no short text")),
        };
        let user_type = match self.0.get("user_type") {
            None | Some(Value::Null) => UserType::default(),
            Some(Value::String(text)) if text == "customer" => UserType::Customer,
            Some(Value::String(text)) if text == "vendor" => UserType::Vendor,
            Some(_) => return Err(invalid("the token's claim \"user_type\" is neither customer nor vendor")),
        };
        let service = match self.0.get("scope") {
            None | Some(Value::Null) => false,
            Some(Value::String(scopes)) => scopes.split_ascii_whitespace().any(|scope| scope == "service"),
            Some(_) => return Err(invalid("the token's claim \"scope\" is no text")),
        };
        let exp = match self.0.get("exp") {
            Some(Value::Number(exp)) => exp.as_i64().or_else(|| exp.as_f64().map(|exp| exp as i64)),
            _ => None,
        };
        let exp = exp.ok_or_else(|| invalid("the token's claim \"exp\" is no time"))?;
        Ok(Identity { user_id, username, user_type, service, expires_at: exp.saturating_add(leeway) })
    }
}
