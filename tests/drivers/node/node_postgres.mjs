// node-postgres: unnamed and named statements, Pool, cursors, COPY streams.
import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import { ALL_BYTES, BIG, Skip, TABLE, TAGS, TEXT, pause, raises, range, run, same } from './steps.mjs';

// Where the server is stands in the environment.
async function opened(options) {
  const c = new pg.Client(options);
  c.on('error', () => {}); // a lost connection fails the query, not the process
  await c.connect();
  return c;
}
const one = async (c, text, ...values) => Object.values((await c.query(text, values)).rows[0])[0];
const named = async (c, name, text, ...values) => Object.values((await c.query({ name, text, values })).rows[0])[0];

const steps = {
  async connect(c) {
    same(await one(c, 'SELECT 1'), 1);
    await c.query(`TRUNCATE ${TABLE}`);
  },
  async crud(c) {
    same((await c.query(`INSERT INTO ${TABLE}(id, name) VALUES ($1, $2), (2, 'b')`, [1, 'a'])).rowCount, 2);
    await c.query(`UPDATE ${TABLE} SET name = $1 WHERE id = $2`, ['c', 1]);
    same(await one(c, `SELECT name FROM ${TABLE} WHERE id = $1`, 1), 'c');
    same((await c.query(`DELETE FROM ${TABLE}`)).rowCount, 2);
  },
  async transaction(c) {
    await c.query('BEGIN');
    await c.query(`INSERT INTO ${TABLE}(id) VALUES ($1)`, [10]);
    await c.query(`INSERT INTO ${TABLE}(id) VALUES ($1)`, [11]);
    await c.query('COMMIT');
    same(await one(c, `SELECT count(*)::int FROM ${TABLE} WHERE id IN (10, 11)`), 2);
  },
  async rollback(c) {
    await c.query('BEGIN');
    await c.query(`INSERT INTO ${TABLE}(id) VALUES (20)`);
    await c.query('SAVEPOINT a');
    await c.query(`INSERT INTO ${TABLE}(id) VALUES (21)`);
    await c.query('ROLLBACK TO a');
    same(await one(c, `SELECT count(*)::int FROM ${TABLE} WHERE id IN (20, 21)`), 1);
    await c.query('ROLLBACK');
    same(await one(c, `SELECT count(*)::int FROM ${TABLE} WHERE id IN (20, 21)`), 0);
  },
  async prepared(c) {
    for (const n of range(0, 30)) {
      same(await named(c, 'plus', 'SELECT $1::int + 1', n), n + 1);
      same(await named(c, 'upper', 'SELECT upper($1::text)', `n${n}`), `N${n}`);
    }
  },
  async reprepared() {
    for (const n of range(0, 10)) { // the same name with another text, on another connection
      const other = await opened();
      for (const m of range(0, 3)) same(await named(other, 'again', `SELECT $1::int + ${n}`, m), m + n);
      await other.end();
    }
  },
  async batch(c) {
    const found = await Promise.all(range(0, 50).map((n) => one(c, 'SELECT $1::int', n)));
    same(found, range(0, 50));
    const many = await c.query(range(0, 20).map((n) => `SELECT ${n} AS n`).join('; '));
    same(many.map((result) => result.rows[0].n), range(0, 20));
    await raises('22012', c.query('SELECT 1; SELECT 1 / 0; SELECT 2'));
  },
  async copy(c) {
    const rows = range(1000, 2000).map((n) => `${n}\trow ${n}\n`);
    await pipeline(Readable.from(rows), c.query(copyFrom(`COPY ${TABLE}(id, name) FROM STDIN`)));
    const found = [];
    for await (const part of c.query(copyTo(`COPY (SELECT id FROM ${TABLE} WHERE id >= 1000 ORDER BY id) TO STDOUT`))) found.push(part);
    same(Buffer.concat(found).toString().trim().split('\n').map(Number), range(1000, 2000));
    await raises('22P02', pipeline(Readable.from(['not a number\n']), c.query(copyFrom(`COPY ${TABLE}(id) FROM STDIN`))));
    same(await one(c, 'SELECT 1'), 1);
  },
  async cursor(c) {
    await c.query('BEGIN');
    const cursor = c.query(new Cursor('SELECT generate_series(1, $1::int) AS n', [500]));
    let sum = 0;
    for (let rows = await cursor.read(100); rows.length; rows = await cursor.read(100)) sum += rows.reduce((all, row) => all + row.n, 0);
    await cursor.close();
    await c.query('COMMIT');
    same(sum, 125250);
  },
  async cancel(c) {
    const sleeping = raises('57014', c.query('SELECT pg_sleep(20)'));
    await pause(200);
    new pg.Client().cancel(c, c._getActiveQuery()); // another client sends the key of this one
    await sleeping;
    same(await one(c, 'SELECT 1'), 1);
  },
  async timeout(c) {
    await c.query("BEGIN; SET LOCAL statement_timeout = '100ms'");
    await raises('57014', c.query('SELECT pg_sleep(20)'));
    await c.query('ROLLBACK');
    same(await one(c, 'SELECT 1'), 1);
  },
  async error(c) {
    await raises('22012', c.query('SELECT 1 / $1::int', [0]));
    await raises('22012', named(c, 'by', 'SELECT 10 / $1::int', 0));
    await c.query('BEGIN');
    await raises('42703', c.query('SELECT nothing'));
    await raises('25P02', c.query('SELECT 1'));
    await c.query('ROLLBACK');
    same(await named(c, 'by', 'SELECT 10 / $1::int', 2), 5);
  },
  async null(c) {
    await c.query(`INSERT INTO ${TABLE}(id, name) VALUES ($1, $2)`, [30, null]);
    same(await one(c, `SELECT name FROM ${TABLE} WHERE id = 30`), null);
  },
  async binary(c) {
    await c.query(`INSERT INTO ${TABLE}(id, data) VALUES ($1, $2)`, [40, ALL_BYTES]);
    same(await one(c, `SELECT data FROM ${TABLE} WHERE id = 40`), ALL_BYTES);
    const { rows } = await c.query({ text: `SELECT data FROM ${TABLE} WHERE id = 40`, values: [], binary: true });
    same(rows[0].data, ALL_BYTES);
  },
  async array(c) {
    await c.query(`INSERT INTO ${TABLE}(id, tags) VALUES ($1, $2)`, [50, TAGS]);
    same(await one(c, `SELECT tags FROM ${TABLE} WHERE id = 50`), TAGS);
    same(await one(c, 'SELECT $1::int[]', [1, null, 3]), [1, null, 3]);
  },
  async unicode(c) {
    same(await one(c, 'SELECT $1::text', TEXT), TEXT);
    same(await one(c, 'SELECT length($1::text)', TEXT), [...TEXT].length);
  },
  async latin1() {
    throw new Skip('the driver speaks UTF-8 only');
  },
  async large(c) {
    await c.query(`INSERT INTO ${TABLE}(id, name) VALUES (60, $1)`, ['x'.repeat(BIG)]);
    same((await one(c, `SELECT name FROM ${TABLE} WHERE id = 60`)).length, BIG);
    same((await c.query("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n")).rowCount, 20000);
  },
  async settings(c) {
    await c.query("SET TIME ZONE 'Asia/Tokyo'");
    for (let n = 0; n < 20; n++) same(await one(c, "SELECT current_setting('TimeZone')"), 'Asia/Tokyo');
    await c.query('RESET TIME ZONE');
    const other = await opened({ options: '-c TimeZone=Asia/Tokyo', application_name: 'options', statement_timeout: 30000 });
    for (let n = 0; n < 10; n++) same(await one(other, "SELECT current_setting('TimeZone')"), 'Asia/Tokyo');
    await other.end();
  },
  async reconnect(c) {
    const pool = new pg.Pool({ max: 2 });
    pool.on('error', () => {});
    const found = await Promise.all(range(0, 10).map((n) => pool.query('SELECT $1::int AS n', [n])));
    same(found.map((result) => result.rows[0].n), range(0, 10));
    await pool.end();
    await raises(null, c.query('SELECT pg_terminate_backend(pg_backend_pid())'));
    const other = await opened();
    same(await one(other, 'SELECT $1::int', 7), 7);
    await other.end();
  },
};

const { version } = JSON.parse(readFileSync(new URL('node_modules/pg/package.json', import.meta.url), 'utf8'));
console.log('version', version);
await run(steps, opened, (c) => c.end());
