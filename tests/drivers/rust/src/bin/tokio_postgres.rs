//! tokio-postgres: named statements in the binary format, pipelines whenever futures run together, COPY with a Sync in front of its data.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use futures_util::{SinkExt, TryStreamExt};
use pglull_driver_programmes::{BIG, Result, TAGS, TEXT, all_bytes, raises, run, same, setting, table, version};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls};

async fn opened_with(options: &str) -> Result<Client> {
    let mut config = Config::new();
    config.host(setting("PGHOST")).port(setting("PGPORT").parse()?).user(setting("PGUSER"));
    config.password(setting("PGPASSWORD")).dbname(setting("PGDATABASE")).options(options);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn opened() -> Result<Client> {
    opened_with("").await
}

fn state(error: &Error) -> Option<String> {
    error.code().map(|code| code.code().to_owned())
}

/// Prepares by itself, as the driver does with every text.
async fn int(c: &Client, sql: &str, values: &[&(dyn ToSql + Sync)]) -> std::result::Result<i32, Error> {
    c.query_one(sql, values).await.and_then(|row| row.try_get(0))
}

async fn connect(c: &mut Client) -> Result {
    same(int(c, "SELECT 1", &[]).await?, 1)?;
    Ok(c.batch_execute(&format!("TRUNCATE {}", table())).await?)
}

async fn crud(c: &mut Client) -> Result {
    let t = table();
    same(c.execute(&format!("INSERT INTO {t}(id, name) VALUES ($1, $2), (2, 'b')"), &[&1, &"a"]).await?, 2)?;
    c.execute(&format!("UPDATE {t} SET name = $1 WHERE id = $2"), &[&"c", &1]).await?;
    let row = c.query_one(&format!("SELECT name FROM {t} WHERE id = $1"), &[&1]).await?;
    same(row.try_get::<_, &str>(0)?, "c")?;
    same(c.execute(&format!("DELETE FROM {t}"), &[]).await?, 2)
}

async fn transaction(c: &mut Client) -> Result {
    let t = table();
    let tx = c.transaction().await?;
    tx.execute(&format!("INSERT INTO {t}(id) VALUES ($1)"), &[&10]).await?;
    tx.execute(&format!("INSERT INTO {t}(id) VALUES ($1)"), &[&11]).await?;
    tx.commit().await?;
    same(int(c, &format!("SELECT count(*)::int FROM {t} WHERE id IN (10, 11)"), &[]).await?, 2)
}

async fn rollback(c: &mut Client) -> Result {
    let t = table();
    let count = format!("SELECT count(*)::int FROM {t} WHERE id IN (20, 21)");
    let mut tx = c.transaction().await?;
    tx.execute(&format!("INSERT INTO {t}(id) VALUES (20)"), &[]).await?;
    let inner = tx.transaction().await?;
    inner.execute(&format!("INSERT INTO {t}(id) VALUES (21)"), &[]).await?;
    inner.rollback().await?;
    same(tx.query_one(&count, &[]).await?.try_get(0)?, 1)?;
    drop(tx); // rolls back
    same(int(c, &count, &[]).await?, 0)
}

async fn prepared(c: &mut Client) -> Result {
    let plus = c.prepare("SELECT $1::int + 1").await?;
    let upper = c.prepare("SELECT upper($1::text)").await?;
    for n in 0..30 {
        same(c.query_one(&plus, &[&n]).await?.try_get(0)?, n + 1)?;
        same(c.query_one(&upper, &[&format!("n{n}")]).await?.try_get(0)?, format!("N{n}"))?;
    }
    Ok(())
}

async fn reprepared(c: &mut Client) -> Result {
    for n in 0..30 {
        let again = c.prepare(&format!("SELECT $1::int + {}", n % 5)).await?;
        same(c.query_one(&again, &[&n]).await?.try_get(0)?, n + n % 5)?;
    } // each is closed when it is dropped
    same(int(c, "SELECT $1::int", &[&1]).await?, 1)
}

async fn batch(c: &mut Client) -> Result {
    let statement = c.prepare("SELECT 100 / $1::int").await?;
    let (c, statement) = (&*c, &statement);
    let values: Vec<i32> = (1..=50).collect();
    let rows = try_join_all(values.iter().map(|n| async move { c.query_one(statement, &[n]).await })).await?;
    same(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), values.iter().map(|n| 100 / n).collect())?;
    let mixed = join_all([1, 0, 2].iter().map(|n| async move { c.query_one(statement, &[n]).await })).await;
    same(
        mixed.iter().map(|one| one.as_ref().err().and_then(state)).collect(),
        vec![None, Some("22012".to_owned()), None],
    )?;
    raises("22012", c.batch_execute("SELECT 1; SELECT 1 / 0; SELECT 2").await, state)
}

async fn copy(c: &mut Client) -> Result {
    let t = table();
    let sink = c.copy_in(&format!("COPY {t}(id, name) FROM STDIN")).await?;
    let mut sink = std::pin::pin!(sink);
    for n in 1000..2000 {
        sink.send(Bytes::from(format!("{n}\trow {n}\n"))).await?;
    }
    same(sink.finish().await?, 1000)?;
    let parts = c.copy_out(&format!("COPY (SELECT id FROM {t} WHERE id >= 1000 ORDER BY id) TO STDOUT")).await?;
    let found = parts
        .try_fold(0, |lines, part| async move { Ok(lines + part.iter().filter(|b| **b == b'\n').count()) })
        .await?;
    same(found, 1000)?;
    let mut wrong = std::pin::pin!(c.copy_in(&format!("COPY {t}(id) FROM STDIN")).await?);
    wrong.send(Bytes::from_static(b"not a number\n")).await?;
    raises("22P02", wrong.finish().await, state)?;
    let given_up = c.copy_in::<_, Bytes>(&format!("COPY {t}(id) FROM STDIN")).await?;
    drop(given_up); // sends CopyFail
    same(int(c, "SELECT 1", &[]).await?, 1)
}

async fn cursor(c: &mut Client) -> Result {
    let tx = c.transaction().await?;
    let portal = tx.bind("SELECT generate_series(1, $1::int)", &[&500]).await?;
    let mut sum = 0;
    loop {
        let rows = tx.query_portal(&portal, 100).await?;
        if rows.is_empty() {
            break;
        }
        sum += rows.iter().map(|row| row.get::<_, i32>(0)).sum::<i32>();
    }
    tx.commit().await?;
    same(sum, 125_250)
}

async fn cancel(c: &mut Client) -> Result {
    let token = c.cancel_token();
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        token.cancel_query(NoTls).await
    };
    let (slept, sent) = tokio::join!(c.batch_execute("SELECT pg_sleep(20)"), later);
    sent?;
    raises("57014", slept, state)?;
    same(int(c, "SELECT 1", &[]).await?, 1)
}

async fn timeout(c: &mut Client) -> Result {
    let tx = c.transaction().await?;
    tx.batch_execute("SET LOCAL statement_timeout = '100ms'").await?;
    raises("57014", tx.execute("SELECT pg_sleep(20)", &[]).await, state)?;
    tx.rollback().await?;
    same(int(c, "SELECT 1", &[]).await?, 1)
}

async fn error(c: &mut Client) -> Result {
    let by = c.prepare("SELECT 10 / $1::int").await?;
    raises("22012", c.query_one(&by, &[&0]).await, state)?;
    let tx = c.transaction().await?;
    raises("42703", tx.execute("SELECT nothing", &[]).await, state)?;
    raises("25P02", tx.execute("SELECT 1", &[]).await, state)?;
    tx.rollback().await?;
    same(c.query_one(&by, &[&2]).await?.try_get(0)?, 5)
}

async fn null(c: &mut Client) -> Result {
    let t = table();
    c.execute(&format!("INSERT INTO {t}(id, name) VALUES ($1, $2)"), &[&30, &None::<&str>]).await?;
    let row = c.query_one(&format!("SELECT name FROM {t} WHERE id = 30"), &[]).await?;
    same(row.try_get::<_, Option<&str>>(0)?, None)
}

async fn binary(c: &mut Client) -> Result {
    let t = table();
    c.execute(&format!("INSERT INTO {t}(id, data) VALUES ($1, $2)"), &[&40, &all_bytes()]).await?;
    same(c.query_one(&format!("SELECT data FROM {t} WHERE id = 40"), &[]).await?.try_get(0)?, all_bytes())
}

async fn array(c: &mut Client) -> Result {
    let t = table();
    c.execute(&format!("INSERT INTO {t}(id, tags) VALUES ($1, $2)"), &[&50, &TAGS.as_slice()]).await?;
    let row = c.query_one(&format!("SELECT tags FROM {t} WHERE id = 50"), &[]).await?;
    same(row.try_get::<_, Vec<Option<&str>>>(0)?, TAGS.to_vec())
}

async fn unicode(c: &mut Client) -> Result {
    let row = c.query_one("SELECT $1::text, length($1::text)", &[&TEXT]).await?;
    same(row.try_get::<_, &str>(0)?, TEXT)?;
    same(row.try_get::<_, i32>(1)?, i32::try_from(TEXT.chars().count())?)
}

async fn large(c: &mut Client) -> Result {
    let t = table();
    c.execute(&format!("INSERT INTO {t}(id, name) VALUES (60, $1)"), &[&"x".repeat(BIG)]).await?;
    let row = c.query_one(&format!("SELECT name FROM {t} WHERE id = 60"), &[]).await?;
    same(row.try_get::<_, &str>(0)?.len(), BIG)?;
    same(c.query("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n", &[]).await?.len(), 20000)
}

async fn settings(c: &mut Client) -> Result {
    c.batch_execute("SET TIME ZONE 'Asia/Tokyo'").await?;
    let other = opened_with("-c TimeZone=Asia/Tokyo").await?;
    for _ in 0..20 {
        for one in [&*c, &other] {
            let row = one.query_one("SELECT current_setting('TimeZone')", &[]).await?;
            same(row.try_get::<_, &str>(0)?, "Asia/Tokyo")?;
        }
    }
    Ok(c.batch_execute("RESET TIME ZONE").await?)
}

async fn reconnect(c: &mut Client) -> Result {
    for n in 0..5 {
        let other = opened().await?;
        same(int(&other, "SELECT $1::int", &[&n]).await?, n)?;
    }
    raises("", c.execute("SELECT pg_terminate_backend(pg_backend_pid())", &[]).await, state)?;
    same(int(&opened().await?, "SELECT $1::int", &[&7]).await?, 7)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    println!("version {}", version("tokio-postgres"));
    for _ in 0..pglull_driver_programmes::laps() {
        println!("skip latin1 the driver speaks UTF-8 only");
    }
    run!(opened(); connect crud transaction rollback prepared reprepared batch copy cursor cancel timeout error null binary array unicode large settings reconnect)
}
