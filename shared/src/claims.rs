//! Who a token says its bearer is.

use serde::{Deserialize, Serialize};

use crate::ids::UserId;

/// The two sides of the marketplace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UserType {
    #[default]
    Customer,
    Vendor,
}

impl UserType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Vendor => "vendor",
        }
    }

    /// The type that a stored text names; anything unknown is a customer, the lesser right.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        if text == "vendor" { Self::Vendor } else { Self::Customer }
    }
}

/// A verified bearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user_id: UserId,
    pub username: String,
    pub user_type: UserType,
    /// `scope: service`: may create conversations for others and send system messages.
    pub service: bool,
    /// When the token ends, in seconds since 1970.
    pub expires_at: i64,
}

/// The claims of a token, as issuers (the dev stack, the load tests) write them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub sub: String,
    pub username: String,
    pub user_type: UserType,
    /// Seconds since 1970.
    pub iat: i64,
    /// Seconds since 1970.
    pub exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}
