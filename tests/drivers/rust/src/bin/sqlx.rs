//! sqlx: named statements with a cache, one connection and a pool, COPY.

use std::time::Duration;

use futures_util::TryStreamExt;
use pglull_driver_programmes::{BIG, Result, TAGS, TEXT, all_bytes, raises, run, same, setting, table, version};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Error, Executor, PgConnection, Row, query, query_scalar, raw_sql};

fn options() -> Result<PgConnectOptions> {
    let options =
        PgConnectOptions::new().host(&setting("PGHOST")).port(setting("PGPORT").parse()?).username(&setting("PGUSER"));
    Ok(options.password(&setting("PGPASSWORD")).database(&setting("PGDATABASE")))
}

async fn opened() -> Result<PgConnection> {
    Ok(PgConnection::connect_with(&options()?).await?)
}

fn state(error: &Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}

/// SQL with the table's name in it.
fn sql(text: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(text.replace("items", &table()))
}

async fn connect(c: &mut PgConnection) -> Result {
    same(query_scalar::<_, i32>("SELECT 1").fetch_one(&mut *c).await?, 1)?;
    c.execute(sql("TRUNCATE items")).await?;
    Ok(())
}

async fn crud(c: &mut PgConnection) -> Result {
    let inserted =
        query(sql("INSERT INTO items(id, name) VALUES ($1, $2), (2, 'b')")).bind(1).bind("a").execute(&mut *c).await?;
    same(inserted.rows_affected(), 2)?;
    query(sql("UPDATE items SET name = $1 WHERE id = $2")).bind("c").bind(1).execute(&mut *c).await?;
    same(
        query_scalar::<_, String>(sql("SELECT name FROM items WHERE id = $1")).bind(1).fetch_one(&mut *c).await?,
        "c".to_owned(),
    )?;
    same(query(sql("DELETE FROM items")).execute(&mut *c).await?.rows_affected(), 2)
}

async fn count(c: &mut PgConnection, first: i32, last: i32) -> Result<i64> {
    Ok(query_scalar(sql("SELECT count(*) FROM items WHERE id BETWEEN $1 AND $2"))
        .bind(first)
        .bind(last)
        .fetch_one(c)
        .await?)
}

async fn transaction(c: &mut PgConnection) -> Result {
    let mut tx = c.begin().await?;
    query(sql("INSERT INTO items(id) VALUES ($1)")).bind(10).execute(&mut *tx).await?;
    query(sql("INSERT INTO items(id) VALUES ($1)")).bind(11).execute(&mut *tx).await?;
    tx.commit().await?;
    same(count(c, 10, 11).await?, 2)
}

async fn rollback(c: &mut PgConnection) -> Result {
    let mut tx = c.begin().await?;
    query(sql("INSERT INTO items(id) VALUES ($1)")).bind(20).execute(&mut *tx).await?;
    let mut inner = tx.begin().await?;
    query(sql("INSERT INTO items(id) VALUES ($1)")).bind(21).execute(&mut *inner).await?;
    inner.rollback().await?;
    same(count(&mut tx, 20, 21).await?, 1)?;
    drop(tx); // rolls back with the next use of the connection
    same(count(c, 20, 21).await?, 0)
}

async fn prepared(c: &mut PgConnection) -> Result {
    for n in 0..30 {
        same(query_scalar::<_, i32>("SELECT $1::int + 1").bind(n).fetch_one(&mut *c).await?, n + 1)?;
        same(
            query_scalar::<_, String>("SELECT upper($1::text)").bind(format!("n{n}")).fetch_one(&mut *c).await?,
            format!("N{n}"),
        )?;
    }
    Ok(())
}

async fn reprepared(_: &mut PgConnection) -> Result {
    // A small cache: older statements are closed by the driver, their texts come back under other names.
    let mut c = PgConnection::connect_with(&options()?.statement_cache_capacity(2)).await?;
    for n in 0..30 {
        let text = AssertSqlSafe(format!("SELECT $1::int + {}", n % 5));
        same(query_scalar::<_, i32>(text).bind(n).fetch_one(&mut c).await?, n + n % 5)?;
    }
    c.clear_cached_statements().await?;
    for n in 0..10 {
        same(query_scalar::<_, i32>("SELECT $1::int").bind(n).persistent(false).fetch_one(&mut c).await?, n)?;
    }
    Ok(c.close().await?)
}

async fn batch(c: &mut PgConnection) -> Result {
    let ids: Vec<i32> = (100..150).collect();
    query(sql("INSERT INTO items(id) SELECT * FROM unnest($1::int[])")).bind(&ids).execute(&mut *c).await?;
    same(count(c, 100, 149).await?, 50)?;
    let many = (0..20).map(|n| format!("SELECT {n}")).collect::<Vec<_>>().join("; ");
    let rows: Vec<_> = raw_sql(AssertSqlSafe(many)).fetch(&mut *c).try_collect().await?;
    same(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), (0..20).collect())?;
    raises("22012", c.execute(raw_sql("SELECT 1; SELECT 1 / 0; SELECT 2")).await, state)
}

async fn copy(c: &mut PgConnection) -> Result {
    let rows: String = (1000..2000).map(|n| format!("{n}\trow {n}\n")).collect();
    let into = format!("COPY {}(id, name) FROM STDIN", table());
    let mut sink = c.copy_in_raw(&into).await?;
    sink.send(rows.as_bytes()).await?;
    same(sink.finish().await?, 1000)?;
    let out = format!("COPY (SELECT id FROM {} WHERE id >= 1000) TO STDOUT", table());
    let parts: Vec<_> = c.copy_out_raw(&out).await?.try_collect().await?;
    same(parts.iter().flatten().filter(|byte| **byte == b'\n').count(), 1000)?;
    let mut wrong = c.copy_in_raw(&into).await?;
    wrong.send(b"not a number\tx\n".as_slice()).await?;
    raises("22P02", wrong.finish().await, state)?;
    c.copy_in_raw(&into).await?.abort("given up").await?;
    same(query_scalar::<_, i32>("SELECT 1").fetch_one(&mut *c).await?, 1)
}

async fn cursor(c: &mut PgConnection) -> Result {
    let mut tx = c.begin().await?;
    tx.execute("DECLARE portal CURSOR FOR SELECT generate_series(1, 500)").await?;
    let mut sum = 0;
    for _ in 0..5 {
        sum += query_scalar::<_, i32>("FETCH 100 FROM portal").fetch_all(&mut *tx).await?.iter().sum::<i32>();
    }
    tx.commit().await?;
    same(sum, 125_250)
}

async fn timeout(c: &mut PgConnection) -> Result {
    let mut tx = c.begin().await?;
    tx.execute("SET LOCAL statement_timeout = '100ms'").await?;
    raises("57014", query("SELECT pg_sleep(20)").execute(&mut *tx).await, state)?;
    tx.rollback().await?;
    same(query_scalar::<_, i32>("SELECT 1").fetch_one(&mut *c).await?, 1)
}

async fn error(c: &mut PgConnection) -> Result {
    let by = "SELECT 10 / $1::int";
    raises("22012", query_scalar::<_, i32>(by).bind(0).fetch_one(&mut *c).await, state)?;
    let mut tx = c.begin().await?;
    raises("42703", query("SELECT nothing").execute(&mut *tx).await, state)?;
    raises("25P02", query("SELECT 1").execute(&mut *tx).await, state)?;
    tx.rollback().await?;
    same(query_scalar::<_, i32>(by).bind(2).fetch_one(&mut *c).await?, 5)
}

async fn null(c: &mut PgConnection) -> Result {
    query(sql("INSERT INTO items(id, name) VALUES ($1, $2)")).bind(30).bind(None::<String>).execute(&mut *c).await?;
    same(query_scalar::<_, Option<String>>(sql("SELECT name FROM items WHERE id = 30")).fetch_one(&mut *c).await?, None)
}

async fn binary(c: &mut PgConnection) -> Result {
    query(sql("INSERT INTO items(id, data) VALUES ($1, $2)")).bind(40).bind(all_bytes()).execute(&mut *c).await?;
    same(query_scalar::<_, Vec<u8>>(sql("SELECT data FROM items WHERE id = 40")).fetch_one(&mut *c).await?, all_bytes())
}

async fn array(c: &mut PgConnection) -> Result {
    let tags: Vec<Option<String>> = TAGS.iter().map(|tag| tag.map(str::to_owned)).collect();
    query(sql("INSERT INTO items(id, tags) VALUES ($1, $2)")).bind(50).bind(&tags).execute(&mut *c).await?;
    same(
        query_scalar::<_, Vec<Option<String>>>(sql("SELECT tags FROM items WHERE id = 50")).fetch_one(&mut *c).await?,
        tags,
    )
}

async fn unicode(c: &mut PgConnection) -> Result {
    let row = query("SELECT $1::text, length($1::text)").bind(TEXT).fetch_one(&mut *c).await?;
    same(row.try_get::<&str, _>(0)?, TEXT)?;
    same(row.try_get::<i32, _>(1)?, i32::try_from(TEXT.chars().count())?)
}

async fn large(c: &mut PgConnection) -> Result {
    query(sql("INSERT INTO items(id, name) VALUES (60, $1)")).bind("x".repeat(BIG)).execute(&mut *c).await?;
    same(query_scalar::<_, String>(sql("SELECT name FROM items WHERE id = 60")).fetch_one(&mut *c).await?.len(), BIG)?;
    same(query("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n").fetch_all(&mut *c).await?.len(), 20000)
}

async fn settings(c: &mut PgConnection) -> Result {
    c.execute("SET TIME ZONE 'Asia/Tokyo'").await?;
    let options = options()?.options([("IntervalStyle", "iso_8601")]).application_name("options");
    let mut other = PgConnection::connect_with(&options).await?;
    let show = "SELECT current_setting('TimeZone') || current_setting('IntervalStyle')";
    for _ in 0..20 {
        same(query_scalar::<_, String>(show).fetch_one(&mut *c).await?, "Asia/Tokyopostgres".to_owned())?;
        same(query_scalar::<_, String>(show).fetch_one(&mut other).await?, "UTCiso_8601".to_owned())?;
    }
    c.execute("RESET TIME ZONE").await?;
    Ok(other.close().await?)
}

async fn reconnect(c: &mut PgConnection) -> Result {
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(20))
        .connect_with(options()?)
        .await?;
    for n in 0..5 {
        same(query_scalar::<_, i32>("SELECT $1::int").bind(n).fetch_one(&pool).await?, n)?;
    }
    pool.close().await;
    raises("", query("SELECT pg_terminate_backend(pg_backend_pid())").execute(&mut *c).await, state)?;
    same(query_scalar::<_, i32>("SELECT $1::int").bind(7).fetch_one(&mut opened().await?).await?, 7)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    println!("version {}", version("sqlx"));
    for _ in 0..pglull_driver_programmes::laps() {
        println!("skip latin1 the driver speaks UTF-8 only");
        println!("skip cancel the driver cannot cancel");
    }
    run!(opened(); connect crud transaction rollback prepared reprepared batch copy cursor timeout error null binary array unicode large settings reconnect)
}
