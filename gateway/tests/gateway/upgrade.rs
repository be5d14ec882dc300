//! Two versions side by side: `make upgrade` builds an older one, and runs this.

use std::path::{Path, PathBuf};

use devstack::testing::{Launch, Process};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::{
    person::Person,
    support::{World, message, messages_of, seq, until},
};

/// Programs of one version, on a database that only `migrate` has made.
struct Version {
    /// Those of the other version; `None`: this one's.
    folder: Option<PathBuf>,
    database: String,
}

impl Version {
    fn launch(&self, launch: Launch) -> Launch {
        let launch = launch.env("PARTYLINE_DATABASE_URL", &self.database);
        self.folder.iter().fold(launch, |launch, folder| launch.from_folder(folder))
    }

    async fn gateway(&self, world: &World) -> Process {
        self.launch(world.launch()).start().await.unwrap()
    }

    async fn persister(&self, world: &World) -> Process {
        self.launch(world.env.persister().unwrap()).start().await.unwrap()
    }

    async fn migrate(&self, world: &World) {
        let migration = self.launch(world.env.persister().unwrap()).arg("migrate").spawn().unwrap();
        assert!(migration.wait().await.success());
    }
}

async fn empty_database(world: &World) -> String {
    let (server, name) = world.env.database_url().rsplit_once('/').unwrap();
    let empty = format!("{name}_upgrade");
    let mut connection = PgConnection::connect(world.env.database_url()).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {empty}"));
    sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
    format!("{server}/{empty}")
}

/// Both talk, edit, delete and read; returns the content of what stays, in order.
async fn talk(stage: &str, chat: &str, ann: &mut Person, bob: &mut Person) -> Vec<String> {
    ann.join(chat).await;
    bob.join(chat).await;
    let (first, edited, deleted) = (format!("{stage}: first"), format!("{stage}: edited"), format!("{stage}: deleted"));
    let at = seq(&ann.send(chat, &first).await);
    assert_eq!(seq(&bob.find(|it| it["content"] == first).await), at);
    let place = seq(&bob.send(chat, "before the edit").await);
    ann.find(|it| it["seq"] == place).await;
    bob.get("ack", json!({ "type": "edit_message", "conversation_id": chat, "seq": place, "content": edited })).await;
    ann.find(|it| it["type"] == "message_edited" && it["content"] == edited).await;
    let gone = seq(&ann.send(chat, &deleted).await);
    bob.find(|it| it["seq"] == gone).await;
    ann.get("ack", json!({ "type": "delete_message", "conversation_id": chat, "seq": gone })).await;
    bob.find(|it| it["type"] == "message_deleted").await;
    bob.get("ack", json!({ "type": "mark_read", "conversation_id": chat, "seq": gone })).await;
    ann.find(|it| it["type"] == "read" && it["last_read_seq"] == gone).await;
    let repeated = message(chat, &format!("{stage}: repeated"));
    let ack = ann.get("ack", repeated.clone()).await;
    let again = ann.get("ack", repeated.clone()).await;
    assert_eq!((&again["seq"], &again["duplicate"]), (&ack["seq"], &json!(true)));
    vec![first, edited, format!("{stage}: repeated")]
}

/// Returns what a page of history says, without what was deleted.
async fn history(world: &World, gateway: &Process, chat: &str) -> Vec<String> {
    let page = world.get(gateway, "ann", &format!("{}?limit=200", messages_of(chat))).await;
    assert_eq!(page.status, 200, "{page:?}");
    let mut messages = page.body["results"].as_array().unwrap().clone();
    messages.sort_by_key(seq);
    messages.iter().filter_map(|it| it["content"].as_str()).filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "needs an older version's programs in PARTYLINE_PREVIOUS_BINARIES: make upgrade"]
async fn an_upgrade_while_people_talk_and_the_way_back_lose_nothing() {
    let world = World::new().await;
    let database = empty_database(&world).await;
    let folder = std::env::var_os("PARTYLINE_PREVIOUS_BINARIES").expect("PARTYLINE_PREVIOUS_BINARIES");
    let old = Version { folder: Some(Path::new(&folder).to_owned()), database: database.clone() };
    let new = Version { folder: None, database };
    let mut said = Vec::new();

    old.migrate(&world).await;
    let mut gateways = [old.gateway(&world).await, old.gateway(&world).await];
    let mut persister = old.persister(&world).await;
    let chat = world.direct(&gateways[0], ["ann", "bob"]).await;

    // The schema first, under the old programs; they start on it, too.
    new.migrate(&world).await;
    for (stage, gateway_versions, persister_version) in [
        ("the new schema", [&old, &old], &old),
        ("the new persister", [&old, &old], &new),
        ("one new gateway", [&new, &old], &new),
        ("new gateways", [&new, &new], &new),
        ("back to one old gateway", [&new, &old], &new),
        ("an old persister under a new gateway", [&new, &old], &old),
        ("back to the old version", [&old, &old], &old),
    ] {
        persister.kill().await;
        persister = persister_version.persister(&world).await;
        for (gateway, version) in gateways.iter_mut().zip(gateway_versions) {
            std::mem::replace(gateway, version.gateway(&world).await).kill().await;
        }
        let mut ann = world.person(&gateways[0], "ann").await;
        let mut bob = world.person(&gateways[1], "bob").await;
        said.extend(talk(stage, &chat, &mut ann, &mut bob).await);
        world.persisted().await;
        for gateway in &gateways {
            until("the history to be whole", async || history(&world, gateway, &chat).await == said).await;
            assert!(world.is_ready(gateway).await, "{stage}");
        }
        assert!(world.is_ready(&persister).await, "{stage}");
        assert_eq!(world.dead_letters().await, 0, "{stage}");
    }
}
