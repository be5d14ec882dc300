//! From a token to an [`Identity`]. The algorithm is pinned by configuration: a token's own header chooses
//! nothing but which of the configured keys to try.

mod claims;
mod kept;
mod keys;
mod refresh;
mod settings;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use jsonwebtoken::{DecodingKey, Validation, errors::ErrorKind};
use partyline_shared::{
    admin::Latch,
    claims::Identity,
    wire::{BEARER_SUBPROTOCOL_PREFIX, ErrorCode, Refusal},
};
use tokio_util::sync::CancellationToken;

pub use self::settings::{AuthSettings, JwtAlgorithm, Secret};
use self::{
    claims::Payload,
    kept::KeptKeys,
    keys::{KeySet, Source},
    refresh::{Outcome, Refresher},
};
use crate::clock;

/// How long a token whose key is unknown waits for new keys: long enough for the gap between two readings and one that
/// is answered, and within the time of a handshake.
const KEY_WAIT: Duration = Duration::from_secs(8);
/// How often a file's date is looked at; its content is read only if that changed.
const FILE_GLANCE: Duration = Duration::from_secs(5);

/// Checks tokens against the keys of the configured source, which may change while it runs.
pub struct Verifier {
    validation: Validation,
    user_claim: String,
    leeway: i64,
    keys: Arc<ArcSwap<KeySet>>,
    refresher: Option<Arc<Refresher>>,
}

/// Why a token was not taken.
enum Failure {
    /// Signed by a key that this node does not know (yet).
    UnknownKey,
    Refused(Refusal),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::UnknownKey => invalid("the token's key is unknown"),
            Failure::Refused(refusal) => refusal,
        }
    }
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(ErrorCode::TokenInvalid, message)
}

impl Verifier {
    /// Loads the keys and keeps them fresh until `shutdown`. Without keys, because the identity provider is down and none
    /// are kept, it goes on trying; `has_keys` is up once there are keys to check tokens with.
    ///
    /// # Errors
    /// If the settings are wrong.
    pub async fn start(
        settings: &AuthSettings,
        has_keys: Latch,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let algorithm = settings.jwt_algorithm.algorithm();
        let mut validation = Validation::new(algorithm);
        // Times are checked with the other claims: the library calls a time that it can't hold a missing one.
        validation.validate_exp = false;
        let mut required = Vec::new();
        if let Some(issuer) = &settings.jwt_issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &settings.jwt_audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            // Identity providers name an audience in every token, whether anybody asks for it or not.
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);

        let keys = Arc::<ArcSwap<KeySet>>::default();
        let refresher = match Source::new(settings)? {
            None => {
                let secrets = settings.secrets().map_err(anyhow::Error::msg)?;
                keys.store(Arc::new(KeySet::shared_secrets(&secrets)));
                has_keys.set(true);
                None
            }
            Some(source) => {
                let mut kept = match (&settings.jwks_cache_file, &settings.jwks_url) {
                    (Some(path), Some(url)) => Some(KeptKeys::new(path.clone(), url)),
                    _ => None,
                };
                match kept.as_mut().map(|kept| kept.read(settings.jwt_algorithm)) {
                    Some(Ok(Some(read))) => {
                        keys.store(Arc::new(read));
                        has_keys.set(true);
                    }
                    Some(Err(error)) => tracing::warn!(error = format!("{error:#}"), "kept keys not taken"),
                    Some(Ok(None)) | None => {}
                }
                let every = Duration::from_secs(u64::from(settings.jwks_refresh_seconds));
                let is_file = settings.jwks_file.is_some() || settings.jwt_secret_file.is_some();
                let every = if is_file { every.min(FILE_GLANCE) } else { every };
                Some(Refresher::start(source, keys.clone(), kept, every, has_keys, shutdown).await)
            }
        };
        let leeway = i64::from(settings.jwt_leeway_seconds);
        let user_claim = settings.jwt_user_claim.clone();
        Ok(Arc::new(Self { validation, user_claim, leeway, keys, refresher }))
    }

    /// Checks a token; waits for new keys if the token's is unknown, so that a rotation refuses nobody.
    ///
    /// # Errors
    /// `token_invalid`, `token_expired`; `unavailable` if the key is unknown and the keys could not be read in time.
    pub async fn verify_or_refresh(&self, token: &str) -> Result<Identity, Refusal> {
        match (self.check(token), &self.refresher) {
            (Err(Failure::UnknownKey), Some(refresher)) => {
                let found = tokio::time::timeout(KEY_WAIT, self.wait_for_key(token, refresher)).await;
                found.unwrap_or_else(|_| Err(Refusal::unavailable("the source of the token's key")))
            }
            (result, _) => Ok(result?),
        }
    }

    /// Checks a token against each new set of keys until one of them has its key, or is known not to.
    async fn wait_for_key(&self, token: &str, refresher: &Refresher) -> Result<Identity, Refusal> {
        let mut readings = refresher.ask();
        let mut outcome = Outcome::BegunBefore;
        loop {
            match (self.check(token), outcome) {
                (Err(Failure::UnknownKey), Outcome::BegunBefore) => outcome = readings.next().await,
                (Err(Failure::UnknownKey), Outcome::Failed) => {
                    return Err(Refusal::unavailable("the source of the token's key"));
                }
                (result, _) => return Ok(result?),
            }
        }
    }

    /// Verifies the token of a REST request: `Authorization: Bearer`, and no other scheme.
    ///
    /// # Errors
    /// `token_invalid`, `token_expired`.
    pub async fn from_request_or_refresh(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let token = match headers.get(AUTHORIZATION) {
            None => return Err(invalid("a token is needed: Authorization: Bearer")),
            Some(value) => bearer_token(value).ok_or_else(|| invalid("Authorization is not Bearer"))?,
        };
        self.verify_or_refresh(token).await
    }

    /// Verifies the token of a WebSocket handshake: the subprotocol `bearer.<jwt>`, else `Authorization: Bearer`.
    ///
    /// The subprotocol is the page's own choice, while `Authorization` may come from anywhere: browsers add the `Basic`
    /// password of a protected site by themselves, and identity-aware proxies add tokens of their own.
    ///
    /// # Errors
    /// `token_invalid`, `token_expired`.
    pub async fn from_handshake_or_refresh(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let token = subprotocol_token(headers)
            .or_else(|| authorization_token(headers))
            .ok_or_else(|| invalid("a token is needed: Authorization: Bearer, or the subprotocol bearer.<jwt>"))?;
        self.verify_or_refresh(token).await
    }

    fn check(&self, token: &str) -> Result<Identity, Failure> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Failure::Refused(invalid("not a JWT")))?;
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(Failure::Refused(invalid("the token is signed with another algorithm than this server takes")));
        }
        // RFC 7515, section 4.1.11: an extension that must be understood, and is not.
        if header.crit.is_some() {
            return Err(Failure::Refused(invalid("the token has critical extensions")));
        }
        let keys = self.keys.load();
        let named = header.kid.as_deref().is_some_and(|id| keys.names(id));
        let mut failure = Failure::UnknownKey;
        for key in keys.candidates(header.kid.as_deref()) {
            match self.check_with(token, key) {
                Ok(payload) => {
                    let identity = payload.identity(&self.user_claim, self.leeway, clock::unix_seconds());
                    return identity.map_err(Failure::Refused);
                }
                // Another key may be the right one, unless the token named this one.
                Err(ErrorKind::InvalidSignature) if !named => {
                    if self.refresher.is_none() {
                        failure = Failure::Refused(refusal(&ErrorKind::InvalidSignature));
                    }
                }
                Err(kind) => {
                    failure = Failure::Refused(refusal(&kind));
                    break;
                }
            }
        }
        Err(failure)
    }

    fn check_with(&self, token: &str, key: &DecodingKey) -> Result<Payload, ErrorKind> {
        jsonwebtoken::decode::<Payload>(token, key, &self.validation)
            .map(|data| data.claims)
            .map_err(|error| error.into_kind())
    }
}

fn refusal(kind: &ErrorKind) -> Refusal {
    match kind {
        ErrorKind::InvalidSignature => invalid("the token's signature does not verify"),
        ErrorKind::InvalidIssuer => invalid("the token comes from another issuer"),
        ErrorKind::InvalidAudience => invalid("the token is meant for another audience"),
        ErrorKind::MissingRequiredClaim(claim) => invalid(&format!("the token lacks the claim {claim:?}")),
        _ => invalid("not a valid JWT"),
    }
}

/// Returns the first token of `Authorization: Bearer`; other schemes are ignored.
#[must_use]
pub fn authorization_token(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(AUTHORIZATION).iter().find_map(bearer_token)
}

fn bearer_token(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn subprotocol_token(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|entry| entry.trim().strip_prefix(BEARER_SUBPROTOCOL_PREFIX))
        .filter(|token| !token.is_empty())
}
