//! Tokens for the people of a load test (HS256).

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use partyline_shared::claims::{Claims, UserType};

/// Signs tokens that all end at one time, after the run.
pub(crate) struct Signer {
    key: EncodingKey,
    iat: i64,
    exp: i64,
}

impl Signer {
    /// Tokens that are good for `seconds` from now.
    pub(crate) fn new(secret: &str, seconds: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (iat, exp) = (now.cast_signed(), (now + seconds).cast_signed());
        Self { key: EncodingKey::from_secret(secret.as_bytes()), iat, exp }
    }

    /// A person's token.
    ///
    /// # Errors
    /// If signing fails.
    pub(crate) fn person(&self, user: &str, user_type: UserType) -> anyhow::Result<String> {
        self.sign(user, user_type, None)
    }

    /// The token of a service, which may make conversations for others.
    ///
    /// # Errors
    /// If signing fails.
    pub(crate) fn service(&self, user: &str) -> anyhow::Result<String> {
        self.sign(user, UserType::Vendor, Some("service".into()))
    }

    fn sign(&self, user: &str, user_type: UserType, scope: Option<String>) -> anyhow::Result<String> {
        let claims = Claims { sub: user.into(), username: user.into(), user_type, iat: self.iat, exp: self.exp, scope };
        Ok(jsonwebtoken::encode(&Header::default(), &claims, &self.key)?)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;

    #[test]
    fn tokens_hold_for_the_run_and_name_their_bearer() {
        let secret = "s".repeat(32);
        let signer = Signer::new(&secret, 60);
        let check = |token: &str| {
            decode::<Claims>(token, &DecodingKey::from_secret(secret.as_bytes()), &Validation::default())
                .unwrap()
                .claims
        };
        let person = check(&signer.person("p-1", UserType::Vendor).unwrap());
        assert_eq!((person.sub.as_str(), person.user_type, person.scope), ("p-1", UserType::Vendor, None));
        assert_eq!(person.exp - person.iat, 60);
        assert_eq!(check(&signer.service("s").unwrap()).scope.as_deref(), Some("service"));
    }
}
