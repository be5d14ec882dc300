//! Two people to try the chat with, and their conversation.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use partyline_shared::{claims::UserType, timestamp::Timestamp};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    plan::{self, Plan},
    say::say,
};
use crate::{paths, token};

const TOKEN_SECONDS: i64 = 24 * 3_600;
const RENEWAL: Duration = Duration::from_secs(3_600);

pub(super) struct Person {
    pub user_id: &'static str,
    pub username: &'static str,
    pub user_type: UserType,
}

pub(super) const PEOPLE: [Person; 2] = [
    Person { user_id: "demo-customer", username: "Casey", user_type: UserType::Customer },
    Person { user_id: "demo-vendor", username: "Vera", user_type: UserType::Vendor },
];

/// Sign-in without a password: whoever reaches the page is one of the two.
pub(super) struct Demo {
    secret: String,
    gateway: String,
    /// `demo.json` beside the page.
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Entry {
    user_id: &'static str,
    username: &'static str,
    user_type: UserType,
    token: String,
    expires_at: Timestamp,
}

impl Demo {
    /// None where nobody here can sign tokens, or strangers could reach them: then only `PARTYLINE_DEMO=1` has it.
    pub(super) fn new(plan: &Plan, page: Option<&std::path::Path>) -> Option<Self> {
        let Some(secret) = plan.jwt_secret.clone() else {
            say!("tokens are signed elsewhere (PARTYLINE_JWT_ALGORITHM), so there are no demo people");
            return None;
        };
        let addrs: Vec<_> = plan.gateways.iter().filter_map(|node| node.http).collect();
        let loopback = addrs.iter().all(|addr| addr.ip().is_loopback());
        if !loopback && plan::setting("PARTYLINE_DEMO").as_deref() != Some("1") {
            say!("other machines can reach the gateway, so there are no demo people (PARTYLINE_DEMO=1 has them)");
            return None;
        }
        let gateway = plan::url(*addrs.first()?);
        Some(Self { secret, gateway, file: page.map(|page| page.join("demo.json")) })
    }

    /// Writes fresh tokens for the page.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let expires_at = OffsetDateTime::now_utc() + time::Duration::seconds(TOKEN_SECONDS);
        let people = PEOPLE.iter().map(|person| {
            Ok(Entry {
                user_id: person.user_id,
                username: person.username,
                user_type: person.user_type,
                token: self.token(person)?,
                expires_at: expires_at.into(),
            })
        });
        let people = people.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(paths::write_public(file, &serde_json::to_vec_pretty(&serde_json::json!({ "people": people }))?)?)
    }

    pub(super) fn token(&self, person: &Person) -> anyhow::Result<String> {
        token::mint(&self.secret, person.user_id, person.username, person.user_type, None, TOKEN_SECONDS)
    }

    /// Finds or creates their conversation. Both are made known first: a gateway learns names from tokens.
    pub(super) async fn converse(&self) -> anyhow::Result<()> {
        let url = format!("{}/chat/api/conversations/", self.gateway);
        let client = reqwest::Client::new();
        let [customer, vendor] = &PEOPLE;
        let list = client.get(&url).bearer_auth(self.token(vendor)?).send().await?;
        if !list.status().is_success() {
            bail!("GET /chat/api/conversations/: {}", list.status());
        }
        let body = serde_json::json!({ "participant_ids": [vendor.user_id], "kind": "direct", "title": null });
        let made = client.post(&url).bearer_auth(self.token(customer)?).json(&body).send().await?;
        if !made.status().is_success() {
            bail!("POST /chat/api/conversations/: {} {}", made.status(), made.text().await?);
        }
        Ok(())
    }

    /// Where the page signs a person in.
    pub(super) fn sign_in(&self, person: &Person) -> String {
        format!("{}/?as={}", self.gateway, person.user_id)
    }
}

/// Keeps the page's tokens fresh, for ever.
pub(super) async fn renew(demo: Option<Demo>) {
    let Some(demo) = demo else { return };
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = demo.write() {
            say!("the demo tokens could not be renewed: {error:#}");
        }
    }
}
