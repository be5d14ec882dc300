//! What a verified token says.

use std::collections::HashMap;

use partyline_shared::{
    claims::{Identity, UserType},
    ids::UserId,
    wire::{ErrorCode, MAX_SEQ, Refusal},
};
use serde::Deserialize;
use serde_json::{Number, Value, value::RawValue};

use super::invalid;
use crate::text;

/// The longest user name, in bytes: it travels with every message.
const MAX_USERNAME_BYTES: usize = 256;

/// A token's claims. Only those that are needed are read any further: the others are the issuer's own.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Payload(HashMap<String, Box<RawValue>>);

impl Payload {
    /// Reads the claims, and checks those of time.
    ///
    /// # Errors
    /// `token_expired`; `token_invalid`, naming the claim.
    pub(super) fn identity(&self, user_claim: &str, leeway: i64, now: i64) -> Result<Identity, Refusal> {
        let exp = self.time("exp")?.ok_or_else(|| invalid("the token lacks the claim \"exp\""))?;
        let expires_at = exp.saturating_add(leeway);
        // RFC 7519, section 4.1.4: a token ends at `exp`, not after it.
        if expires_at <= now {
            return Err(Refusal::new(ErrorCode::TokenExpired, "the token has expired"));
        }
        if self.time("nbf")?.is_some_and(|nbf| nbf > now.saturating_add(leeway)) {
            return Err(invalid("the token is not valid yet"));
        }
        let user_id = match self.get(user_claim) {
            Some(Value::String(text)) => UserId::new(&text).ok(),
            // The system being replaced numbers its users.
            Some(Value::Number(number)) => whole(&number).and_then(|number| UserId::new(&number).ok()),
            _ => None,
        };
        let user_id = user_id.ok_or_else(|| invalid(&format!("the token's claim {user_claim:?} is no user id")))?;
        let username = match self.get("username") {
            None | Some(Value::Null) => user_id.as_str().to_owned(),
            Some(Value::String(name)) if name.trim().is_empty() => user_id.as_str().to_owned(),
            Some(Value::String(name)) if name.len() <= MAX_USERNAME_BYTES && !name.chars().any(char::is_control) => {
                text::display_name(&name).map_or_else(|| user_id.as_str().to_owned(), Into::into)
            }
            Some(_) => return Err(invalid("the token's claim \"username\" is no short text")),
        };
        let user_type = match self.get("user_type") {
            None | Some(Value::Null) => UserType::default(),
            Some(Value::String(text)) if text == "customer" => UserType::Customer,
            Some(Value::String(text)) if text == "vendor" => UserType::Vendor,
            Some(_) => return Err(invalid("the token's claim \"user_type\" is neither customer nor vendor")),
        };
        let service = match self.get("scope") {
            None | Some(Value::Null) => false,
            Some(Value::String(scopes)) => scopes.split_ascii_whitespace().any(|scope| scope == "service"),
            Some(_) => return Err(invalid("the token's claim \"scope\" is no text")),
        };
        Ok(Identity { user_id, username, user_type, service, expires_at })
    }

    /// A claim's value. One that isn't a string, a number or null is of no use, and so is one too large to be read.
    fn get(&self, claim: &str) -> Option<Value> {
        self.0.get(claim).map(|raw| serde_json::from_str(raw.get()).unwrap_or(Value::Bool(false)))
    }

    /// A time in seconds since 1970, rounded, if the claim is there. Times that no clock will see are refused unless an
    /// unsigned 64-bit number holds them.
    ///
    /// # Errors
    /// `token_invalid`.
    fn time(&self, claim: &str) -> Result<Option<i64>, Refusal> {
        let seconds = match self.get(claim) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) if number.is_u64() => Some(number.as_i64().unwrap_or(i64::MAX)),
            Some(Value::Number(number)) => {
                number.as_f64().filter(|it| *it < u64::MAX as f64).map(|it| it.round() as i64)
            }
            Some(_) => None,
        };
        seconds.map(Some).ok_or_else(|| invalid(&format!("the token's claim {claim:?} is no time")))
    }
}

/// A whole number as an id: `7.0` is `7`.
fn whole(number: &Number) -> Option<String> {
    if number.is_i64() || number.is_u64() {
        return Some(number.to_string());
    }
    let number = number.as_f64().filter(|it| it.fract() == 0.0 && it.abs() <= MAX_SEQ as f64)?;
    Some((number as i64).to_string())
}
