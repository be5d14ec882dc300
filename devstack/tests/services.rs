//! What a test gets is real, and its own.

use devstack::testing::{Proxy, TestEnv};
use futures_util::{StreamExt, TryStreamExt};

#[tokio::test]
async fn a_test_has_a_migrated_database_of_its_own() {
    let first = TestEnv::start().await.unwrap();
    let second = TestEnv::start().await.unwrap();
    assert_ne!(first.database_url(), second.database_url());
    for env in [&first, &second] {
        let pool = env.pool().await.unwrap();
        partyline_migrations::migrate_pool(&pool).await.unwrap();
        pool.close().await;
    }
}

#[tokio::test]
async fn accounts_hear_nothing_of_one_another() {
    let (first, second) = (TestEnv::start().await.unwrap(), TestEnv::start().await.unwrap());
    assert_ne!(first.nats_url(), second.nats_url());
    let listener = first.nats().await.unwrap();
    let mut heard = listener.subscribe("word").await.unwrap();
    listener.flush().await.unwrap();
    second.nats().await.unwrap().publish("word", "theirs".into()).await.unwrap();
    listener.publish("word", "ours".into()).await.unwrap();
    assert_eq!(&heard.next().await.unwrap().payload[..], b"ours");
}

#[tokio::test]
async fn jetstream_works_and_the_next_test_finds_it_empty() {
    let env = TestEnv::start().await.unwrap();
    let jetstream = async_nats::jetstream::new(env.nats().await.unwrap());
    assert_eq!(jetstream.stream_names().try_collect::<Vec<_>>().await.unwrap(), Vec::<String>::new());
    let config = async_nats::jetstream::stream::Config { name: "LEFT".into(), ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    drop(env);
    // As many as there are accounts: one of them is the one with the left-over.
    for _ in 0..64 {
        let env = TestEnv::start().await.unwrap();
        let jetstream = async_nats::jetstream::new(env.nats().await.unwrap());
        assert_eq!(jetstream.stream_names().try_collect::<Vec<_>>().await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_proxy_stands_before_postgres() {
    let env = TestEnv::start().await.unwrap();
    let proxy = Proxy::start(env.database_url()).await.unwrap();
    let pool = sqlx::PgPool::connect(&proxy.through(env.database_url())).await.unwrap();
    proxy.cut();
    assert!(sqlx::PgPool::connect(&proxy.through(env.database_url())).await.is_err());
    proxy.resume();
    pool.acquire().await.unwrap();
}
