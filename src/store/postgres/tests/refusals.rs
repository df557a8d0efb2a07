//! Databases that cannot be used, and rows that make no sense.

use super::*;
use secrecy::ExposeSecret as _;

async fn refused(url: &SecretString) -> String {
    let error = opened(url, "box1", "box1").await.expect_err("it was opened");
    crate::domain::chain(&error)
}

#[tokio::test]
async fn a_database_of_something_else_is_left_alone() {
    let database = TestDatabase::make().await;
    database.connect().await.batch_execute("CREATE TABLE customers (id INT)").await.expect("made");
    let told = refused(&database.url()).await;
    assert!(told.contains("customers") && told.contains("a database of its own"), "{told}");
}

#[tokio::test]
async fn a_newer_schema_is_worked_with_as_long_as_it_allows() {
    let (store, database) = open().await;
    created(&store, command(requirement("a", 1000), 0)).await;
    drop(store);
    let client = database.connect().await;
    client.batch_execute("UPDATE meta SET value = '9' WHERE key = 'schema'").await.expect("of tomorrow");
    assert_eq!(store_on(&database).await.waiting().await.expect("the queue").len(), 1);
    client.batch_execute("UPDATE meta SET value = '8' WHERE key = 'works_with'").await.expect("and not for us");
    let told = refused(&database.url()).await;
    assert!(told.contains("schema is version 9") && told.contains("version 8 and above"), "{told}");
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing() {
    let database = TestDatabase::make().await;
    let address = Address::read(&database.url()).expect("an address");
    let pool = Database::new(&address, Arc::default()).expect("a pool");
    let mut client = pool.client().await.expect("a connection");
    let error = open::migrate(&mut client, &[open::MIGRATIONS[0], "CREATE TABLE half (id INT); SELECT 1 / 0"], 1).await.expect_err("it failed");
    assert!(matches!(error, open::OpenError::Migration { number: 2, .. }), "{error:?}");
    let tables = client.query_one("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", &[]).await.expect("counted");
    assert_eq!(tables.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_database_that_only_reads_or_is_not_there_is_told() {
    let database = TestDatabase::make().await;
    let missing = SecretString::from(database.url().expose_secret().replacen("/t", "/nowhere-t", 1));
    assert!(refused(&missing).await.contains("does not exist"), "{}", refused(&missing).await);
    let (store, database) = open().await;
    let name: String = database.connect().await.query_one("SELECT current_database()", &[]).await.expect("a name").get(0);
    database.connect().await.batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await.expect("set");
    assert!(refused(&database.url()).await.contains("it cannot be reached"));
    // Those that are open write still, as they did before a failover; once they are made anew they do not.
    let client = database.connect().await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    client.query_one(end, &[]).await.expect("ended");
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable { .. })));
    client.batch_execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE").await.expect("set");
    client.batch_execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await.expect("set");
    store.ping().await.expect("it writes again");
}

#[tokio::test]
async fn a_pooler_is_refused_in_transaction_mode_and_taken_in_session_mode() {
    let database = TestDatabase::make().await;
    let through = |user: &str| SecretString::from(format!("{}&port=6432", database.url().expose_secret().replacen("rc@", &format!("{user}@"), 1)));
    let told = refused(&through("rc")).await;
    assert!(told.contains("pooler in transaction mode") && told.contains("session mode"), "{told}");
    let store = opened(&through("rc_session"), "box1", "box1").await.unwrap_or_else(|error| panic!("{}", crate::domain::chain(&error)));
    created(&store, command(requirement("a", 1000), 0)).await;
    assert!(claim(&store, 1).await.is_some());
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_told() {
    let (store, database) = open().await;
    let job = created(&store, command(requirement("a", 1000), 0)).await.id;
    let client = database.connect().await;
    for sql in ["UPDATE jobs SET spec = '{}'", "UPDATE jobs SET attempt = 3", "UPDATE jobs SET created_at = 9223372036854775807"] {
        client.batch_execute(&format!("BEGIN; {sql}")).await.expect(sql);
        client.batch_execute("COMMIT").await.expect(sql);
        assert!(matches!(store.job(&job).await, Err(StoreError::Corrupt(_))), "{sql}");
    }
}
