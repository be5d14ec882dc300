//! Rooms of a gateway on the plans' servers, where no sweep comes by itself: time stands still.

use partyline_gateway::{
    authorise::Kind,
    command::create::{self, NewConversation},
};
use partyline_shared::{ids::UserId, wire::ErrorCode};

use crate::{
    Database, on_paused_time,
    world::{World, identity},
};

#[test]
fn room_of_a_conversation_that_is_gone_is_not_handed_out_again() {
    let database = Database::start();
    on_paused_time(async {
        let world = World::start(database.url(), 1).await;
        world.gate.open();
        let chat = world.gateways[0].chat.clone();
        let participants = vec![UserId::new("ann").unwrap(), UserId::new("bob").unwrap()];
        let new = NewConversation { kind: Kind::Group, title: None, participants };
        let id = create::create(&chat, &identity("service", true), new).await.unwrap().id;
        let room = chat.rooms.open(id).await.unwrap();

        let pool = sqlx::PgPool::connect_lazy(database.url()).unwrap();
        sqlx::query("DELETE FROM participants WHERE conversation_id = $1").bind(id.0).execute(&pool).await.unwrap();
        sqlx::query("DELETE FROM conversations WHERE id = $1").bind(id.0).execute(&pool).await.unwrap();
        chat.rooms.members_changed(id);
        let mut opened = Ok(room);
        for _ in 0..1_000 {
            world.gate.settle().await;
            opened = chat.rooms.open(id).await;
            if opened.is_err() {
                break;
            }
        }
        assert_eq!(opened.map(|room| room.id).map_err(|refusal| refusal.code), Err(ErrorCode::NotFound));
        assert!(chat.rooms.get(id).is_none());
    });
}
