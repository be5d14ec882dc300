//! What the person at the terminal needs to know.

use std::path::Path;

use super::{
    demo::{Demo, PEOPLE},
    plan::{self, Plan},
    say::say,
};
use crate::paths;

/// `env` in the data folder: the URLs and secrets, for a shell (`set -a; . .partyline/env`).
pub(super) fn write_env(plan: &Plan) -> anyhow::Result<()> {
    let mut text = format!(
        "PARTYLINE_NATS_URL='{}'\nPARTYLINE_DATABASE_URL='{}'\n",
        shell(&plan.nats_url),
        shell(&plan.database_url)
    );
    if let Some(secret) = &plan.jwt_secret {
        text += &format!("PARTYLINE_JWT_SECRET='{}'\n", shell(secret));
    }
    Ok(paths::write_private(&plan.paths.data.join("env"), text.as_bytes())?)
}

/// Inside single quotes.
fn shell(text: &str) -> String {
    text.replace('\'', r"'\''")
}

pub(super) fn tell(plan: &Plan, page: Option<&Path>, demo: Option<&Demo>) {
    let data = plan.paths.data.display();
    say!("\nPartyline is running.\n");
    for node in &plan.gateways {
        let Some(addr) = node.http else { continue };
        let what = if page.is_some() { "chat page" } else { "API" };
        say!("  {:<12} {}/   ({what}, WebSocket at /ws, REST at /chat/api/)", node.name, plan::url(addr));
    }
    if let Some(demo) = demo {
        if page.is_some() {
            say!("\n  Sign in without a password (for loopback only; open both, in two windows):");
            for person in &PEOPLE {
                let kind = person.user_type.as_str();
                say!("  {:<12} {}   ({kind})", person.username, demo.sign_in(person));
            }
        } else {
            say!("\n  Tokens for a day (for loopback only):");
            for person in &PEOPLE {
                if let Ok(token) = demo.token(person) {
                    say!("  {:<12} {token}", person.user_id);
                }
            }
        }
    }
    say!("\n  Metrics:");
    for node in plan.gateways.iter().chain(&plan.persisters) {
        say!("  {:<12} {}/metrics", node.name, plan::url(node.admin));
    }
    say!("\n  Data         {data}");
    say!("  Logs         {data}/logs");
    say!("  Processes    {data}/pids.json");
    say!("  Settings     {data}/env   (URLs of NATS and Postgres, the tokens' secret)");
    say!("\nCtrl-C stops all of it; the data stays.");
}
