// postgres.js: named statements and pipelines by default, Describe with Flush, COPY streams.
import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import postgres from 'postgres';
import { ALL_BYTES, BIG, Skip, TABLE, TAGS, TEXT, pause, raises, range, run, same } from './steps.mjs';

// Where the server is stands in the environment. One connection, so that its statements are in one place.
const opened = async (options) => postgres({ max: 1, onnotice: () => {}, ...options });

const steps = {
  async connect(sql) {
    same((await sql`SELECT 1 AS n`)[0].n, 1);
    same(Number(sql.parameters.server_version.split('.')[0]) >= 14, true);
    await sql`TRUNCATE ${sql(TABLE)}`;
  },
  async crud(sql) {
    same((await sql`INSERT INTO ${sql(TABLE)} ${sql([{ id: 1, name: 'a' }, { id: 2, name: 'b' }])}`).count, 2);
    await sql`UPDATE ${sql(TABLE)} SET name = ${'c'} WHERE id = ${1}`;
    same((await sql`SELECT name FROM ${sql(TABLE)} WHERE id = ${1}`)[0].name, 'c');
    same((await sql`DELETE FROM ${sql(TABLE)}`).count, 2);
  },
  async transaction(sql) {
    await sql.begin((tx) => [ // in one pipeline
      tx`INSERT INTO ${sql(TABLE)}(id) VALUES (${10})`,
      tx`INSERT INTO ${sql(TABLE)}(id) VALUES (${11})`,
    ]);
    same((await sql`SELECT count(*)::int AS n FROM ${sql(TABLE)} WHERE id IN (10, 11)`)[0].n, 2);
  },
  async rollback(sql) {
    const undo = new Error('undo');
    await sql.begin(async (tx) => {
      await tx`INSERT INTO ${sql(TABLE)}(id) VALUES (20)`;
      await tx.savepoint(async (inner) => {
        await inner`INSERT INTO ${sql(TABLE)}(id) VALUES (21)`;
        throw undo;
      }).catch((error) => same(error, undo));
      same((await tx`SELECT count(*)::int AS n FROM ${sql(TABLE)} WHERE id IN (20, 21)`)[0].n, 1);
      throw undo;
    }).catch((error) => { if (error !== undo) throw error; });
    same((await sql`SELECT count(*)::int AS n FROM ${sql(TABLE)} WHERE id IN (20, 21)`)[0].n, 0);
  },
  async prepared(sql) {
    for (const n of range(0, 30)) {
      same((await sql`SELECT ${n}::int + 1 AS n`)[0].n, n + 1);
      same((await sql`SELECT upper(${`n${n}`}::text) AS s`)[0].s, `N${n}`);
    }
  },
  async reprepared() {
    for (const prepare of [true, false]) { // false: unnamed statements
      const other = await opened({ prepare, max: 2 });
      for (const n of range(0, 20)) same((await other.unsafe(`SELECT $1::int + ${n % 5} AS n`, [n], { prepare }))[0].n, n + (n % 5));
      await other.end();
    }
  },
  async batch(sql) {
    const found = await Promise.all(range(0, 50).map((n) => sql`SELECT ${n}::int AS n`));
    same(found.map((rows) => rows[0].n), range(0, 50));
    const mixed = await Promise.allSettled([sql`SELECT 1 AS n`, sql`SELECT 1 / ${0}::int AS n`, sql`SELECT 2 AS n`]);
    same(mixed.map((one) => one.value?.[0].n ?? one.reason.code), [1, '22012', 2]);
    await raises('22012', sql.unsafe('SELECT 1; SELECT 1 / 0; SELECT 2'));
  },
  async copy(sql) {
    const rows = range(1000, 2000).map((n) => `${n}\trow ${n}\n`);
    await pipeline(Readable.from(rows), await sql`COPY ${sql(TABLE)}(id, name) FROM STDIN`.writable());
    const found = [];
    for await (const part of await sql`COPY (SELECT id FROM ${sql(TABLE)} WHERE id >= 1000 ORDER BY id) TO STDOUT`.readable()) found.push(part);
    same(Buffer.concat(found).toString().trim().split('\n').map(Number), range(1000, 2000));
    same((await sql`SELECT 1 AS n`)[0].n, 1);
  },
  async cursor(sql) {
    let sum = 0;
    await sql`SELECT generate_series(1, ${500}::int) AS n`.cursor(100, (rows) => { for (const row of rows) sum += row.n; });
    same(sum, 125250);
  },
  async cancel(sql) {
    const sleeping = sql`SELECT pg_sleep(20)`.execute();
    await pause(200);
    sleeping.cancel();
    await raises('57014', sleeping);
    same((await sql`SELECT 1 AS n`)[0].n, 1);
  },
  async timeout(sql) {
    await raises('57014', sql.begin(async (tx) => {
      await tx`SET LOCAL statement_timeout = '100ms'`;
      await tx`SELECT pg_sleep(20)`;
    }));
    same((await sql`SELECT 1 AS n`)[0].n, 1);
  },
  async error(sql) {
    const by = (n) => sql`SELECT 10 / ${n}::int AS n`;
    await raises('22012', by(0));
    await raises('42703', sql.begin(async (tx) => { // the first error is that of the whole
      await raises('42703', tx`SELECT nothing`.execute());
      await raises('25P02', tx`SELECT 1`.execute());
    }));
    same((await by(2))[0].n, 5);
  },
  async null(sql) {
    await sql`INSERT INTO ${sql(TABLE)}(id, name) VALUES (${30}, ${null})`;
    same((await sql`SELECT name FROM ${sql(TABLE)} WHERE id = 30`)[0].name, null);
  },
  async binary(sql) {
    await sql`INSERT INTO ${sql(TABLE)}(id, data) VALUES (${40}, ${ALL_BYTES})`;
    same(Buffer.from((await sql`SELECT data FROM ${sql(TABLE)} WHERE id = 40`)[0].data), ALL_BYTES);
  },
  async array(sql) {
    await sql`INSERT INTO ${sql(TABLE)}(id, tags) VALUES (${50}, ${TAGS})`;
    const read = TAGS.map((tag) => tag ?? 'NULL'); // the driver reads a NULL in an array as that text
    same([...(await sql`SELECT tags FROM ${sql(TABLE)} WHERE id = 50`)[0].tags], read);
    same([...(await sql`SELECT ${[1, 2, 3]}::int[] AS n`)[0].n], [1, 2, 3]);
  },
  async unicode(sql) {
    same((await sql`SELECT ${TEXT}::text AS s`)[0].s, TEXT);
    same((await sql`SELECT length(${TEXT}::text) AS n`)[0].n, [...TEXT].length);
  },
  async latin1() {
    throw new Skip('the driver speaks UTF-8 only');
  },
  async large(sql) {
    await sql`INSERT INTO ${sql(TABLE)}(id, name) VALUES (60, ${'x'.repeat(BIG)})`;
    same((await sql`SELECT name FROM ${sql(TABLE)} WHERE id = 60`)[0].name.length, BIG);
    same((await sql`SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n`).count, 20000);
  },
  async settings() {
    const other = await opened({ connection: { TimeZone: 'Asia/Tokyo', application_name: 'options' } });
    for (let n = 0; n < 20; n++) same((await other`SELECT current_setting('TimeZone') AS s`)[0].s, 'Asia/Tokyo');
    await other.end();
  },
  async reconnect(sql) {
    for (const n of range(0, 5)) {
      const other = await opened();
      same((await other`SELECT ${n}::int AS n`)[0].n, n);
      await other.end();
    }
    await raises(null, sql`SELECT pg_terminate_backend(pg_backend_pid())`.execute());
    const other = await opened();
    same((await other`SELECT ${7}::int AS n`)[0].n, 7);
    await other.end();
  },
};

const { version } = JSON.parse(readFileSync(new URL('node_modules/postgres/package.json', import.meta.url), 'utf8'));
console.log('version', version);
await run(steps, opened, (sql) => sql.end({ timeout: 2 }));
